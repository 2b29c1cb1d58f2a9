"""Writes a whole store again and again, killed at every system call that makes something durable; run as a program.

    python killed.py FOLDER kill    every run must end like the first, which was never killed
    python killed.py FOLDER share   several processes write one store at once

One process imports, then forks per run: a run takes milliseconds, so that every moment can be tried, not five of them.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from jdistill.store import Store, TeacherWriter, token_table, write_texts
from tests.store.conftest import description, fake_vectors, pairs


class Characters:
    fingerprint = "characters"
    pad_id = 0

    def encode(self, texts, max_length):
        return [[ord(c) for c in text[:max_length]] for text in texts]


def write(path: Path, part: int = 0, parts: int = 1) -> None:
    write_texts(path, [("a", "train", pairs(30)), ("b", "heldout", pairs(9))], fingerprint={"x": 1})
    store = Store.open(path)
    token_table(path, store.texts, tokenizer=Characters(), prompt="p", max_length=5, ids=np.arange(len(store.texts)))
    writer = TeacherWriter(store, "fake", description(dtype="int8", width=5), shard_rows=16)
    for shard in writer.missing():
        if shard % parts == part:
            texts = writer.texts(shard)
            writer.write(shard, fake_vectors([text.prompt + text.text for text in texts], 5))
    writer.finish()


def hashes(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def forked(work) -> int:
    """Run in a child; returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write_and_die(path: Path, after: int) -> None:
    """Kill -9 before the call number `after` of those that make files durable or visible."""
    left = after

    def counted(call):
        def wrapper(*arguments, **keywords):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return wrapper

    for name in ("fsync", "replace", "rename", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    write(path)


def kill(folder: Path) -> None:
    write(folder / "reference")
    reference = hashes(folder / "reference")
    again = folder / "killed"
    moments = 0
    while True:  # one kill, then one run to the end
        shutil.rmtree(again, ignore_errors=True)
        ended = status(forked(partial(write_and_die, again, moments)))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL, ended
        assert status(forked(lambda: write(again))) == 0
        assert hashes(again) == reference, f"after a kill at moment {moments}"
        moments += 1
    assert moments > 60, moments
    shutil.rmtree(again)
    for _ in range(5):  # one run, killed again and again between two instructions
        pid = forked(lambda: write(again))
        time.sleep(random.Random(pid).uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        status(pid)
    write(again)
    assert hashes(again) == reference
    print("moments", moments)


def share(folder: Path) -> None:
    write(folder / "reference")
    for _ in range(3):
        shutil.rmtree(folder / "shared", ignore_errors=True)
        workers = [forked(partial(write, folder / "shared", part, 3)) for part in range(3)]
        assert [status(pid) for pid in workers] == [0, 0, 0]
        assert hashes(folder / "shared") == hashes(folder / "reference")


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # what a killed process has written stays written; real syncs take a minute
    {"kill": kill, "share": share}[sys.argv[2]](Path(sys.argv[1]))
