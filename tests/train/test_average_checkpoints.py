"""The average of the last checkpoints: that of NumPy, evaluated, kept, and the same however the run was interrupted."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jdistill.checkpoint import complete_steps, load_result, load_student_params
from jdistill.config import UserError
from jdistill.parallel import PreemptedError
from jdistill.student import StudentConfig, make_student
from jdistill.train import TrainConfig
from tests.tiny import tiny_static_folder
from tests.train.test_loop import KilledError, assert_same, killed_at, metrics, state_of
from tests.train.tiny_run import run, table_length, tiny_loader

LAST_3: dict[str, Any] = {"average_checkpoints": {"last": 3}, "keep_checkpoints": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, student: Any) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, student, **LAST_3)
    return folder


def test_equals_the_mean_of_numpy_over_multiples_of_save_every_and_the_end(whole: Path) -> None:
    """Evaluations save steps 4 and 8, too, which do not count."""
    assert complete_steps(whole) == [6, 9, 12]
    trees = [state_of(whole, step)["student"] for step in (6, 9, 12)]
    expected = jax.tree.map(lambda *x: np.mean(np.stack(x).astype(np.float64), axis=0), *trees)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), load_student_params(whole), expected
    )


def test_it_is_evaluated_last_and_is_the_result(whole: Path, student: Any) -> None:
    length = table_length(load_student_params(whole))["length"]
    assert metrics(whole)[-1] == {"step": 12, "evaluate/length": pytest.approx(length)}
    assert load_result(whole) == {
        "step": 12,
        "best_step": None,
        "evaluation": {"length": pytest.approx(length)},
        "averaged_steps": [6, 9, 12],
    }
    again = run(whole, student, **LAST_3)
    assert_same(again.params, load_student_params(whole))


def test_an_end_that_is_no_multiple_of_save_every_counts(tmp_path: Path, student: Any) -> None:
    options: dict[str, Any] = {"steps": 11, "evaluate": None, "average_checkpoints": {"last": 2}}
    result = run(tmp_path, student, **options)
    assert (load_result(tmp_path) or {})["averaged_steps"] == [9, 11]
    first, second = (state_of(tmp_path, step)["student"] for step in (9, 11))
    jax.tree.map(lambda m, a, b: np.testing.assert_allclose(m, (a + b) / 2, atol=1e-7), result.params, first, second)


@pytest.mark.parametrize("at", [7, 11])
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, student: Any, whole: Path, at: int) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(at), **LAST_3)
    result = run(tmp_path, student, **LAST_3)
    assert_same(result.params, load_student_params(whole))
    assert_same(load_student_params(tmp_path), load_student_params(whole))
    assert load_result(tmp_path) == load_result(whole)


def test_a_checkpoint_made_on_sigterm_does_not_count(tmp_path: Path, student: Any, whole: Path) -> None:
    loader = tiny_loader()
    stream = loader.stream

    def interrupted(*arguments: Any) -> Any:
        for at, batch in enumerate(stream(*arguments)):
            if at == 8:  # fetched before step 7, which is finished and saved
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    loader.stream = interrupted
    with pytest.raises(PreemptedError):
        run(tmp_path, student, loader=loader, **LAST_3)
    assert max(complete_steps(tmp_path)) == 7
    result = run(tmp_path, student, **LAST_3)
    assert_same(result.params, load_student_params(whole))
    assert load_result(tmp_path) == load_result(whole)


def test_killed_in_the_last_evaluation_over_eight_devices(tmp_path: Path, student: Any) -> None:
    options: dict[str, Any] = {"devices": 8, "fsdp": 4, "evaluate_every": None, "evaluate_at_start": False, **LAST_3}
    expected = run(tmp_path / "whole", student, **options)

    def fails(_: Any) -> dict[str, float]:
        raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "killed", student, evaluate=fails, **options)
    found = run(tmp_path / "killed", student, **options)
    assert_same(found.params, expected.params)
    assert found.evaluation == expected.evaluation


def test_frozen_parameters_stay_exactly_as_they_are(tmp_path: Path) -> None:
    source = tiny_static_folder(tmp_path / "student", width=8, normalize=True)
    config = StudentConfig(init=str(source), backbone="frozen")
    frozen = make_student(config, teacher_widths={"big": 6}, key=jax.random.key(0))
    result = run(tmp_path / "run", frozen, evaluate=None, **LAST_3)
    assert_same(result.params["encoder"], frozen[1]["encoder"])


def test_a_missing_checkpoint_or_average_is_named(tmp_path: Path, student: Any) -> None:
    import shutil

    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(11), evaluate=None, **LAST_3)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    with pytest.raises(UserError, match=r"needs the checkpoint of step 6, which is missing\. Restore it"):
        run(tmp_path, student, evaluate=None, **LAST_3)
    (tmp_path / "result.json").write_text(
        json.dumps({"step": 12, "best_step": None, "evaluation": {}, "averaged_steps": [6, 9, 12]})
    )
    with pytest.raises(UserError, match=r"the folder average is missing\. Move result\.json aside"):
        load_student_params(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": {}}, "cannot be combined with ema: both average the parameters. Remove one of them."),
        ({"keep_best": {"metric": "q"}}, "cannot be combined with keep_best: both choose the resulting student."),
        (
            {"early_stopping": {"metric": "q"}},
            "early_stopping: the average is of the last checkpoints of the whole run",
        ),
    ],
)
def test_what_contradicts_it_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate({"steps": 9, "average_checkpoints": {"last": 2}, **options})


def test_more_checkpoints_than_there_will_be_are_refused_before_the_first_step(tmp_path: Path, student: Any) -> None:
    with pytest.raises(UserError, match="last: is 5, but a run of 12 steps with save_every 3 has only 4 checkpoints"):
        run(tmp_path, student, average_checkpoints={"last": 5})
    assert not any(tmp_path.iterdir())
