"""Early stopping: when a run ends, and that one killed and resumed ends where the whole one did."""

from pathlib import Path
from typing import Any

import pytest

from jdistill.checkpoint import load_result, load_student_params
from jdistill.config import UserError
from jdistill.train.evaluations import EarlyStopping, Patience, after_evaluation
from tests.train.test_loop import KilledError, assert_same, killed_at, state_of
from tests.train.tiny_run import run

NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "values", "evaluations"),
    [
        ({}, [1, 2, 3], 0),
        ({}, [3, 2, 3, 1], 3),
        ({}, [NAN, 1, NAN], 1),
        ({"mode": "min"}, [3, 2, 2, 2], 2),
        ({"min_change": 0.5}, [1.0, 1.25, 1.5, 1.75], 0),
        ({"min_change": 0.5}, [1.0, 1.25, 1.5], 2),
    ],
)
def test_patience_after_evaluations(options: dict[str, Any], values: list[float], evaluations: int) -> None:
    config, patience = EarlyStopping(metric="q", **options), None
    for value in values:
        patience = after_evaluation(config, patience, value)
    assert patience is not None
    assert patience.evaluations == evaluations


def test_the_first_value_counts_as_an_improvement() -> None:
    assert after_evaluation(EarlyStopping(metric="q"), None, -1.0) == Patience(-1.0, 0)


def falls_after(evaluations: int) -> Any:
    """A metric that rises for so many evaluations, then stays."""
    seen: list[float] = []

    def evaluate(params: Any) -> dict[str, float]:
        seen.append(0.0)
        return {"q": float(min(len(seen), evaluations))}

    return evaluate


OPTIONS: dict[str, Any] = {
    "evaluate_every": 2,
    "early_stopping": {"metric": "q", "patience": 2},
    "keep_best": {"metric": "q"},
}


def test_a_run_that_gets_no_better_ends(tmp_path: Path, student: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluated at 0, 2, 4, 6, 8: the third is the best."""
    result = run(tmp_path, student, evaluate=falls_after(3), **OPTIONS)
    assert (result.step, result.best_step) == (8, 4)
    assert load_result(tmp_path) == {"step": 8, "best_step": 4, "evaluation": {"q": 3.0}, "stopped_early": True}
    assert_same(load_student_params(tmp_path), result.params)
    assert "step 8: q has not improved for 2 evaluations" in capsys.readouterr().err
    again = run(tmp_path, student, evaluate=falls_after(3), **OPTIONS)
    assert again.step == 8
    assert "is finished after 8 of 12 steps" in capsys.readouterr().err


def test_killed_while_waiting_it_ends_where_it_would_have(tmp_path: Path, student: Any) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, student, evaluate=falls_after(3), **OPTIONS)
    with pytest.raises(KilledError):
        run(killed, student, evaluate=falls_after(3), loader=killed_at(7), **OPTIONS)
    result = run(killed, student, evaluate=lambda _: {"q": 3.0}, **OPTIONS)
    assert (result.step, result.best_step) == (8, 4)
    assert_same(state_of(killed, 8), state_of(whole, 8))


def test_a_metric_that_is_not_evaluated_is_refused(tmp_path: Path, student: Any) -> None:
    with pytest.raises(UserError, match=r"early_stopping\.metric: evaluation reports no 'r'. It reports: q"):
        run(tmp_path / "a", student, evaluate=falls_after(3), early_stopping={"metric": "r"})
    with pytest.raises(UserError, match=r"early_stopping: there is no evaluation"):
        run(tmp_path / "b", student, evaluate=None, early_stopping={"metric": "r"})
