"""Which changes between two halves of a run are refused."""

import json
from typing import Any

import pytest

from jdistill.train.evaluations import EarlyStopping, Evaluations, KeepBest
from jdistill.train.resume import differences

RECIPE: dict[str, Any] = {
    "run": "./a",
    "losses": {"align": {"weight": 1.0}},
    "train": {"steps": 10, "log_every": 5, "sinks": []},
    "loader": {"prefetch": 2},
    "evaluate": {},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "./b"}, []),
        ({"export": {"card": True}}, []),
        ({"loader": {"prefetch": 0}}, []),
        ({"train": {"steps": 10, "log_every": 1, "sinks": ["wandb"]}}, []),
        ({"train": {"steps": 12, "log_every": 5, "sinks": []}}, ["train.steps: 10 -> 12"]),
        ({"seed": 3}, ["seed: absent -> 3"]),
        ({"evaluate": {"sts": {"kind": "sts"}}}, []),
        ({"fidelity": {"neighbours": 5}}, []),
        ({"losses": {}}, ["losses.align.weight: 1.0 -> absent", "losses: absent -> {}"]),
        ({"losses": {"align": {"weight": 2.0}}}, ["losses.align.weight: 1.0 -> 2.0"]),
    ],
)
def test_differences(change: dict[str, Any], message: list[str]) -> None:
    assert differences(RECIPE, RECIPE | change) == message


@pytest.mark.parametrize("metrics", [{}, {"q": 0.1}, {"q": float("nan"), "r": 0.5}])
def test_evaluations_survive_json(metrics: dict[str, float]) -> None:
    keep, stopping = KeepBest(metric="q"), EarlyStopping(metric="q")
    before, after = Evaluations(keep, stopping), Evaluations(keep, stopping)
    if metrics:
        before.add(3, metrics)
    after.restore(json.loads(json.dumps(before.as_json())), comparable=True)
    assert repr(after.as_json()) == repr(before.as_json())
    other = Evaluations(keep, stopping)
    other.restore(before.as_json(), comparable=False)
    assert other.last is before.last
    assert (other.best, other.patience) == (None, None)


def test_an_option_that_is_not_used_equals_one_that_was_not_there_yet() -> None:
    train = {**RECIPE["train"], "ema": None}
    assert differences(RECIPE, RECIPE | {"train": train}) == []
    assert differences(RECIPE, RECIPE | {"train": {**train, "ema": {"decay": 0.9}}}) == [
        "train.ema.decay: absent -> 0.9"
    ]


def test_the_steps_to_average_may_not_change() -> None:
    def recipe(save_every: int, average: dict[str, int] | None) -> dict[str, Any]:
        return {"train": {"save_every": save_every, "average_checkpoints": average}}

    assert differences(recipe(3, None), recipe(4, None)) == []
    assert differences(recipe(3, {"last": 2}), recipe(4, {"last": 2})) == ["train.save_every: 3 -> 4"]


def test_a_moved_project_is_the_same_run():
    def recipe(place):
        return {
            "data": {"x": {"path": f"{place}/a.csv"}},
            "student": {"init": f"{place}/m"},
            "teachers": {"t": {"model": f"{place}/t"}},
            "evaluate": {"ir": {"corpus": {"path": f"{place}/c.csv"}}},
        }

    assert differences(recipe("/old"), recipe("/new")) == []
    assert differences(recipe("/old"), recipe("new")) == []
    assert differences({"student": {"init": "/a/m"}}, {"student": {"init": "/a/n"}}) == ["student.init: /a/m -> /a/n"]
    assert differences({"student": {"init": "a/m"}}, {"student": {"init": "b/m"}}) == ["student.init: a/m -> b/m"]
