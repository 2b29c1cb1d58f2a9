"""Checkpoints: exact, complete or absent, placed anew, and only as many as asked for."""

import logging
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.checkpoint import Checkpoints, complete_steps, load_student_params, resolved_recipe, save_result
from jdistill.config import UserError
from jdistill.parallel import make_mesh, replicated, row_sharding


def parts(step: int) -> dict[str, Any]:
    return {
        "student": {"encoder": {"words": jnp.full((8, 4), step, jnp.float32)}},
        "rest": {"step": jnp.int32(step), "losses": {}, "mean": {"a": jnp.arange(8.0, dtype=jnp.float32) + step}},
    }


def save(folder: Path, steps: list[int], *, keep: int = 2, best: int | None = None) -> None:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, parts(step), {"note": step}, keep=() if best is None else (best,))
    checkpoints.close()


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_restored_is_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path, [3, 7])
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() == 7
    assert checkpoints.metadata(3) == {"note": 3}
    same(checkpoints.restore(3, parts(0)), parts(3))
    checkpoints.close()


def test_restores_onto_other_devices(tmp_path: Path) -> None:
    save(tmp_path, [1])
    mesh = make_mesh(jax.devices()[:4])
    like = jax.device_put(parts(0), replicated(mesh))
    like["student"] = jax.device_put(like["student"], row_sharding(mesh))
    checkpoints = Checkpoints(tmp_path, keep=2)
    restored = checkpoints.restore(1, like)
    checkpoints.close()
    same(restored, parts(1))
    jax.tree.map(lambda a, b: pytest.fail("moved") if a.sharding != b.sharding else None, restored, like)


def test_latest_and_best_stay(tmp_path: Path) -> None:
    save(tmp_path, [0, 1, 2, 3, 4], keep=2, best=1)
    assert complete_steps(tmp_path) == [1, 3, 4]


def test_half_a_checkpoint_does_not_count(tmp_path: Path) -> None:
    save(tmp_path, [1])
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
    assert complete_steps(tmp_path) == [1]
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() == 1
    checkpoints.close()
    deadline = time.monotonic() + 20  # orbax sweeps in the background
    while list((tmp_path / "checkpoints").glob("*tmp*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list((tmp_path / "checkpoints").glob("*tmp*")), "what a killed process left is swept up"


def test_student_of_the_best_step(tmp_path: Path) -> None:
    save(tmp_path, [0, 1, 2], keep=1, best=0)
    same(load_student_params(tmp_path), parts(2)["student"])
    save_result(tmp_path, {"step": 2, "best_step": 0, "evaluation": {}})
    same(load_student_params(tmp_path), parts(0)["student"])
    save_result(tmp_path, {"step": 2, "best_step": 1, "evaluation": {}})
    with pytest.raises(UserError, match="names step 1, but its checkpoint is missing"):
        load_student_params(tmp_path)


def test_reading_a_student_does_not_read_the_optimizer(tmp_path: Path) -> None:
    import shutil

    save(tmp_path, [1])
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "rest")
    same(load_student_params(tmp_path), parts(1)["student"])


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_student_params(tmp_path)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        resolved_recipe(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_result_is_reported(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, [2])
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(UserError, match=r"result\.json: is damaged\. .*move it aside and rerun"):
        load_student_params(tmp_path)


def test_no_message(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.WARNING):
        save(tmp_path, [1, 2, 3])
        load_student_params(tmp_path)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
