"""A run on packed rows goes on over another number of devices: same batches, same result."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.train.tiny_run import run, tiny_loader, tiny_student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_student(tmp_path_factory.mktemp("student"), dropout=0.0)


def test_a_killed_run_resumes_on_other_devices(tmp_path: Path, student: Any) -> None:
    recipe, optimizer = {"name": "packed"}, {"peak_lr": 0.01, "eps": 1e-5}
    common: dict[str, Any] = {"steps": 4, "save_every": 2, "evaluate_every": None, "optimizer": optimizer}
    common["schedule"] = {"warmup": 1}

    def train(folder: Path, devices: int, microbatches: int) -> Any:
        loader = tiny_loader(batch=16, n=60, pieces=devices * microbatches, packing=32, no_duplicates=True)
        return run(
            folder,
            student,
            recipe=recipe,
            loader=loader,
            devices=devices,
            microbatches=microbatches,
            evaluate=None,
            **common,
        )

    whole = train(tmp_path / "whole", 1, 1)
    train(tmp_path / "killed", 4, 2)
    shutil.rmtree(tmp_path / "killed/checkpoints/4")
    (tmp_path / "killed/result.json").unlink()
    resumed = train(tmp_path / "killed", 2, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), resumed.params, whole.params)


def test_batches_laid_out_for_other_pieces_are_a_bug(tmp_path: Path, student: Any) -> None:
    """They would be read wrongly without a word."""
    with pytest.raises(ValueError, match="in 4 pieces, but they are encoded in 2"):
        run(tmp_path, student, loader=tiny_loader(batch=16, packing=32, pieces=4), devices=2)
