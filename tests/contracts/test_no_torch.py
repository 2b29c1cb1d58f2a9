"""torch stays behind its wall: a training step in a fresh interpreter does not import it."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from tests.train.tiny_run import run, tiny_student
folder = Path(sys.argv[1])
run(folder / "run", tiny_student(folder / "student"), steps=1, devices=1)
import jdistill.checkpoint
jdistill.checkpoint.load_student_params(folder / "run")
for name in ("torch", "transformers", "sentence_transformers", "datasets"):
    assert name not in sys.modules, f"{name} was imported"
"""


def test_training_does_not_import_torch(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
