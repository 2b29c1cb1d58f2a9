import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("how", ["kill", "share"])
def test_bytes_are_those_of_an_undisturbed_run(tmp_path, how):
    """After kill -9 at every durable step and at random moments; and when several processes write at once."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.store.killed", str(tmp_path), how]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
