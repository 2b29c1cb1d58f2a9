"""kill -9 at any moment: the run goes on from its last complete checkpoint, and ends as if never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jdistill.checkpoint import complete_steps
from tests.train.test_loop import assert_same, metrics, state_of

PROGRAM = """
import sys
from pathlib import Path
from tests.train.tiny_run import run, tiny_student
folder = Path(sys.argv[1])
run(folder, tiny_student(Path(sys.argv[2]) / "student"), steps=60, save_every=1, log_every=1, evaluate_every=7)
"""


def start(folder: Path, shared: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(shared)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_three_times(tmp_path: Path) -> None:
    """A checkpoint is written at every step, so that each kill is likely to hit one half written."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, tmp_path).wait() == 0
    for wanted in (3, 17, 38):
        process = start(killed, tmp_path)
        while process.poll() is None and (not (steps := complete_steps(killed)) or steps[-1] < wanted):
            time.sleep(0.001)
        assert process.poll() is None, "it was to be killed before its end"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(killed, tmp_path).wait() == 0
    assert metrics(killed) == metrics(whole)
    assert_same(state_of(killed, 60), state_of(whole, 60))
