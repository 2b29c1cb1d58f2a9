"""The moving average of parameters: that of optax, evaluated, kept and resumed like any other student."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jdistill.checkpoint import load_student_params
from jdistill.student import StudentConfig, make_student
from tests.tiny import tiny_static_folder
from tests.train.test_loop import KilledError, assert_same, killed_at, metrics, state_of
from tests.train.tiny_run import run, table_length

EMA: dict[str, Any] = {"ema": {"decay": 0.8}}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, student: Any) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    run(folder, student, save_every=1, keep_checkpoints=12, **EMA)
    return folder


def test_equals_that_of_optax_and_changes_no_update(averaged: Path, student: Any, tmp_path: Path) -> None:
    plain = run(tmp_path, student)
    assert_same(state_of(averaged, 12)["rest"]["trained"], plain.params)
    ema = optax.ema(0.8, debias=True)
    state = ema.init(plain.params)
    with jax.numpy_dtype_promotion("standard"):
        for step in range(1, 13):
            expected, state = ema.update(state_of(averaged, step)["rest"]["trained"], state)
            found = load_params(averaged, step)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def load_params(folder: Path, step: int) -> Any:
    return state_of(folder, step)["student"]


def test_it_is_what_is_evaluated_and_the_result(averaged: Path) -> None:
    found = load_student_params(averaged)
    assert_same(found, load_params(averaged, 12))
    last = [line for line in metrics(averaged) if "evaluate/length" in line][-1]
    assert last["evaluate/length"] == pytest.approx(table_length(found)["length"])
    assert not np.allclose(
        table_length(found)["length"], table_length(state_of(averaged, 12)["rest"]["trained"])["length"]
    )


def test_killed_and_resumed_over_eight_devices(tmp_path: Path, student: Any) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options: dict[str, Any] = {"devices": 8, "fsdp": 4, "keep_best": {"metric": "length"}, **EMA}
    expected = run(whole, student, **options)
    with pytest.raises(KilledError):
        run(killed, student, loader=killed_at(7), **options)
    found = run(killed, student, **options)
    assert_same(found.params, expected.params)
    assert_same(state_of(killed, 12), state_of(whole, 12))


def test_frozen_parameters_are_not_averaged(tmp_path: Path) -> None:
    source = tiny_static_folder(tmp_path / "student", width=8, normalize=True)
    config = StudentConfig(init=str(source), backbone="frozen")
    frozen = make_student(config, teacher_widths={"big": 6}, key=jax.random.key(0))
    result = run(tmp_path / "run", frozen, evaluate=None, **EMA)
    assert [*state_of(tmp_path / "run", 12)["rest"]["trained"]] == ["projection"]
    assert_same(result.params["encoder"], frozen[1]["encoder"])
    before, after = (params["projection"]["big"]["kernel"] for params in (frozen[1], result.params))
    assert not np.array_equal(before, after)
