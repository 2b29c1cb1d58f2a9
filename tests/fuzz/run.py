"""Run a command of jdistill on one damaged input, in a process of its own with a limit of time."""

import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.cases import KINDS, Commands

SECONDS = 60.0
BYTES = 2 * 2**30
ALLOWED = (0, 2)


@dataclass(frozen=True)
class Outcome:
    """What became of one input; `output` is all that its last command printed, `peak` its memory in bytes."""

    kind: str
    seed: int
    command: str
    code: int
    seconds: float
    peak: int
    output: str

    @property
    def fault(self) -> str:
        """What is wrong with the outcome; empty if it is one that users may see."""
        if self.seconds > SECONDS:
            return f"took longer than {SECONDS:.0f} s"
        if self.code not in ALLOWED:
            return f"exit code {self.code}"
        if "Traceback (most recent call last)" in self.output:
            return "printed a traceback"
        if self.peak > BYTES:
            return f"took {self.peak / 2**30:.1f} GiB"
        if self.code == 2 and "error: " not in self.output:
            return "exit code 2 without saying why"
        return ""


def run_one(kind: str, seed: int, template: Path, folder: Path) -> Outcome:
    """Damage a copy of `template` by `seed`, run the commands until one is refused, and remove the copy."""
    shutil.copytree(template, folder)
    commands = KINDS[kind](random.Random(f"{kind} {seed}"), folder)
    try:
        return _outcome(kind, seed, commands, folder)
    finally:
        shutil.rmtree(folder)


def _outcome(kind: str, seed: int, commands: Commands, folder: Path) -> Outcome:
    printed = folder / "printed"
    start, code, peak, command = time.monotonic(), 0, 0, ""
    for arguments in commands:
        command = "jdistill " + " ".join(arguments)
        child = os.fork()
        if child == 0:
            _become(arguments, folder, printed)
        code, used = _wait(child, start + SECONDS)
        peak = max(peak, used)
        if code:
            break
    output = printed.read_text("utf-8", "replace") if printed.exists() else ""
    return Outcome(kind, seed, command, code, time.monotonic() - start, peak, output)


def _become(arguments: list[str], folder: Path, printed: Path) -> None:
    """The child: runs one command in `folder` and ends the process, as the `jdistill` command does."""
    code = 1
    try:
        os.chdir(folder)
        os.environ["HOME"] = str(folder)
        descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from jdistill import cli

        code = cli.main(arguments)
    except SystemExit as stop:  # argparse
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, deadline: float) -> tuple[int, int]:
    """The exit code of a process and the bytes it held at most; one that runs past `deadline` is killed."""
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.01)
