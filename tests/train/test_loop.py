"""The loop as a whole: what a run leaves behind, and that a stopped run ends as if never stopped."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jdistill.checkpoint import _load_item as load_item
from jdistill.checkpoint import complete_steps, load_result, load_student_params, resolved_recipe
from jdistill.config import UserError
from jdistill.losses import EmbedCosine, InfoNCE
from jdistill.student import load_architecture
from tests.train.tiny_run import run, table_length, tiny_loader

TIMES = ("time", "train/rows_per_second")


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


class KilledError(Exception):
    pass


def killed_at(step: int, **options: Any) -> Any:
    """A loader whose batch of this step never comes."""
    loader = tiny_loader(**options)
    stream = loader.stream

    def until(start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Any:
        for at, batch in enumerate(stream(start, stop, host), start):
            if at == step:
                raise KilledError
            yield batch

    loader.stream = until
    return loader


def state_of(folder: Path, step: int) -> dict[str, Any]:
    """Every array of a checkpoint."""
    return {name: load_item(folder / "checkpoints" / str(step) / name) for name in ("student", "rest")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, student: Any) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, student)
    return folder


def test_run_folder_is_self_contained(whole: Path, student: Any) -> None:
    assert complete_steps(whole) == [9, 12]
    length = metrics(whole)[-1]["evaluate/length"]
    assert load_result(whole) == {"step": 12, "best_step": None, "evaluation": {"length": length}}
    assert load_architecture(whole / "architecture").config == student[0].config
    assert resolved_recipe(whole)["train"]["steps"] == 12
    steps = [line["step"] for line in metrics(whole)]
    assert steps == [0, 2, 4, 4, 6, 8, 8, 10, 12, 12]


def test_training_learns_and_leaves_the_given_parameters_alone(tmp_path: Path, student: Any) -> None:
    before = jax.tree.map(np.array, student[1])
    run(tmp_path, student, steps=40)
    losses = [line["train/loss/align"] for line in metrics(tmp_path) if "train/loss/align" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert_same(before, student[1])


@pytest.mark.parametrize("at", [5, 7, 11])
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, student: Any, whole: Path, at: int) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(at))
    assert max(complete_steps(tmp_path)) < at
    result = run(tmp_path, student)
    assert metrics(tmp_path) == metrics(whole)
    assert_same(state_of(tmp_path, 12), state_of(whole, 12))
    assert_same(result.params, load_student_params(whole))
    assert load_result(tmp_path) == load_result(whole)


def test_killed_and_resumed_with_batches_of_two_shapes(tmp_path: Path, student: Any) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, student, loader=tiny_loader(shapes=2))
    with pytest.raises(KilledError):
        run(killed, student, loader=killed_at(7, shapes=2))
    run(killed, student, loader=tiny_loader(shapes=2))
    assert metrics(killed) == metrics(whole)
    assert_same(state_of(killed, 12), state_of(whole, 12))


def test_resume_on_another_number_of_devices_is_close(tmp_path: Path, student: Any, whole: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(7))
    result = run(tmp_path, student, devices=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result.params, load_student_params(whole))


def test_killed_before_the_first_checkpoint_starts_at_zero(tmp_path: Path, student: Any, whole: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(2))
    assert complete_steps(tmp_path) == []
    run(tmp_path, student)
    assert metrics(tmp_path) == metrics(whole)


def test_finished_run_says_so(whole: Path, student: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    result = run(whole, student)
    assert "finished" in capsys.readouterr().err
    assert (whole / "metrics.jsonl").read_bytes() == before
    assert_same(result.params, load_student_params(whole))


def test_finished_but_for_the_result_writes_it(whole: Path, student: Any) -> None:
    content = load_result(whole)
    (whole / "result.json").unlink()
    run(whole, student)
    assert load_result(whole) == content


def test_changed_recipe_is_refused(whole: Path, student: Any) -> None:
    with pytest.raises(UserError, match=r"is at step 12.*train\.optimizer\.peak_lr: 0\.05 -> 0\.1"):
        run(whole, student, optimizer={"peak_lr": 0.1}, schedule={"warmup": 2})


def test_changed_rows_are_refused(whole: Path, student: Any) -> None:
    with pytest.raises(UserError, match="rows of the store"):
        run(whole, student, loader=tiny_loader(seed=9))


def test_settings_without_effect_may_change(tmp_path: Path, student: Any, whole: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(7))
    result = run(tmp_path, student, save_every=5, log_every=4)
    assert_same(result.params, load_student_params(whole))


def test_best_student_is_kept_and_returned(tmp_path: Path, student: Any) -> None:
    values = {0: 0.0, 4: 0.9, 8: 0.5, 12: 0.1}
    seen: dict[int, Any] = {}

    def evaluate(params: Any) -> dict[str, float]:
        step = 4 * len(seen)
        seen[step] = jax.tree.map(np.array, params)
        return {"quality": values[step]}

    best = {"metric": "quality", "mode": "max"}
    result = run(tmp_path, student, evaluate=evaluate, keep_best=best, keep_checkpoints=1)
    assert result.best_step == 4
    assert result.evaluation == {"quality": 0.9}
    assert complete_steps(tmp_path) == [4, 12]
    assert_same(result.params, seen[4])
    assert_same(load_student_params(tmp_path), seen[4])
    assert load_result(tmp_path) == {"step": 12, "best_step": 4, "evaluation": {"quality": 0.9}}


def test_best_survives_a_resume(tmp_path: Path, student: Any) -> None:
    values, known = iter([0.5, 0.9, 0.1, 0.2]), dict[bytes, float]()

    def evaluate(params: Any) -> dict[str, float]:
        words = np.asarray(params["encoder"]["words"]).tobytes()
        if words not in known:  # a resumed run evaluates the step that it resumes from again
            known[words] = next(values)
        return {"quality": known[words]}

    best: dict[str, Any] = {"evaluate": evaluate, "keep_best": {"metric": "quality"}}
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(7), **best)
    assert run(tmp_path, student, **best).best_step == 4


def failing(failures: int, error: Exception) -> Any:
    """An evaluation that fails so often from step 4 on, and then gives numbers."""
    left, calls = [failures], [0]

    def evaluate(params: Any) -> dict[str, float]:
        calls[0] += 1
        if calls[0] > 1 and left[0]:
            left[0] -= 1
            raise error
        return table_length(params)

    return evaluate


@pytest.mark.parametrize("error", [UserError("sts.parquet: is gone."), MemoryError("too large")], ids=["user", "bug"])
def test_an_evaluation_that_fails_costs_no_step(tmp_path: Path, whole: Path, student: Any, error: Exception) -> None:
    evaluate = failing(1, error)
    with pytest.raises(type(error)) as caught:
        run(tmp_path, student, evaluate=evaluate, save_every=100)
    message = str(caught.value) + " ".join(getattr(caught.value, "__notes__", []))
    assert "Step 4 of 12 is saved" in message
    assert complete_steps(tmp_path) == [4]
    result = run(tmp_path, student, evaluate=evaluate, save_every=100)
    assert_same(result.params, load_student_params(whole))
    same = [{k: v for k, v in line.items() if k.startswith("evaluate/") or k == "step"} for line in metrics(tmp_path)]
    assert same == [
        {k: v for k, v in line.items() if k.startswith("evaluate/") or k == "step"} for line in metrics(whole)
    ]


def test_a_run_killed_while_it_evaluates_last_is_finished_by_evaluating(tmp_path: Path, student: Any) -> None:
    evaluate = failing(1, KilledError())
    with pytest.raises(KilledError):
        run(tmp_path, student, evaluate=evaluate, evaluate_every=None)
    assert load_result(tmp_path) is None
    result = run(tmp_path, student, evaluate=evaluate, evaluate_every=None)
    assert result.step == 12
    assert load_result(tmp_path) == {"step": 12, "best_step": None, "evaluation": result.evaluation}
    lines = (tmp_path / "metrics.jsonl").read_text()
    run(tmp_path, student, evaluate=evaluate, evaluate_every=None)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_a_best_value_of_another_evaluation_is_not_compared(tmp_path: Path, student: Any) -> None:
    values = iter(range(9))
    then: dict[str, Any] = {"name": "tiny", "evaluate": {"a": 1}}
    best: dict[str, Any] = {"keep_best": {"metric": "quality"}}
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(7), recipe=then, evaluate=lambda _: {"quality": 99.0}, **best)
    now, rising = {**then, "evaluate": {"a": 2}}, lambda _: {"quality": next(values)}
    assert run(tmp_path, student, recipe=now, evaluate=rising, **best).best_step == 12


def test_smaller_is_better_with_mode_min(tmp_path: Path, student: Any) -> None:
    values = iter([3.0, 2.0, 1.0, 2.0])
    best = {"metric": "distance", "mode": "min"}
    result = run(tmp_path, student, evaluate=lambda _: {"distance": next(values)}, keep_best=best)
    assert result.best_step == 8


@pytest.mark.parametrize(("values", "best_step"), [((0.5, 0.5, 0.5, 0.5), 4), ((0.5, 0.4, 0.3, 0.2), None)])
def test_on_a_tie_the_trained_student_wins(
    tmp_path: Path, student: Any, values: tuple[float, ...], best_step: int | None
) -> None:
    """Over the untrained one; of several trained ones the earliest does, and a better untrained one stays."""
    measured = iter(values)
    best = {"metric": "quality"}
    result = run(tmp_path, student, evaluate=lambda _: {"quality": next(measured)}, keep_best=best)
    assert result.best_step == (best_step or 0)


def test_unknown_best_metric_is_refused_at_the_first_evaluation(tmp_path: Path, student: Any) -> None:
    with pytest.raises(UserError, match=r"no 'quality'. It reports: length"):
        run(tmp_path, student, keep_best={"metric": "quality"})
    with pytest.raises(UserError, match="there is no evaluation that reports"):
        run(tmp_path, student, evaluate=None, keep_best={"metric": "quality"})


def test_unfinished_run_gives_its_last_complete_checkpoint(tmp_path: Path, student: Any) -> None:
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_student_params(tmp_path)
    with pytest.raises(KilledError):
        run(tmp_path, student, loader=killed_at(7))
    assert load_result(tmp_path) is None
    last = complete_steps(tmp_path)[-1]
    assert last in (
        3,
        4,
        6,
    )  # batches are fetched ahead of the step that needs them, so the kill may come before step 6
    assert_same(load_student_params(tmp_path), state_of(tmp_path, last)["student"])


def test_not_finite_stops_the_run(tmp_path: Path, student: Any) -> None:
    """A single poisoned batch: the window, the terms and the last good checkpoint are named, nothing bad is saved."""
    loader = tiny_loader()
    batch_of = loader.batch

    def poisoned(step: int, host: tuple[int, int] = (0, 1)) -> Any:
        batch = batch_of(step, host)
        if step == 4:
            batch.targets["big"].documents[...] = np.nan
        return batch

    loader.batch = poisoned
    with pytest.raises(UserError, match=r"between steps 4 and 6: loss=nan, align=nan, .*checkpoint: step 3") as error:
        run(tmp_path, student, loader=loader, evaluate=None)
    assert "peak_lr" in str(error.value)
    assert complete_steps(tmp_path) == [3]


def test_rows_must_divide_over_devices(tmp_path: Path, student: Any) -> None:
    with pytest.raises(UserError, match="18 rows does not divide over 4 devices"):
        run(tmp_path, student, global_batch_size=18, devices=4)
    assert not any(tmp_path.iterdir())


def test_first_line_names_what_decides_the_run(
    tmp_path: Path, student: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE()}
    run(tmp_path, student, steps=2, terms=terms, evaluate=table_length)
    lines = capsys.readouterr().err.splitlines()
    for part in ("tiny:", "parameters", "cpu x 2", "100 rows", "16 per step", "2 steps", "padding", "align"):
        assert part in lines[0]
    assert lines[1].startswith("step 0/2  evaluation:  length")
    assert lines[2].startswith("step 2/2  loss")
    assert all(part in lines[2] for part in ("align", "|g|", "lr", "rows/s", "padding", "eta"))


def test_one_program_per_shape(tmp_path: Path, student: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Thirty steps of mixed lengths compile exactly as many training steps as there are shapes."""
    loader = tiny_loader(batch=8, shapes=4, longest=16)
    terms = {"align": EmbedCosine(teacher="big")}
    jax.config.update("jax_log_compiles", True)  # in every thread, unlike jax.log_compiles()
    try:
        with caplog.at_level("WARNING", logger="jax._src.interpreters.pxla"):
            run(tmp_path, student, loader=loader, terms=terms, global_batch_size=8, steps=30, evaluate=None, devices=1)
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = [r for r in caplog.records if "Compiling jit(train_step)" in r.getMessage()]
    assert len(loader.shapes) == 4
    assert len(compiled) == len(loader.shapes)
