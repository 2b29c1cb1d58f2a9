"""Which changes between two halves of a run are refused."""

from typing import Any

import pytest

from jdistill.train.resume import Best, CheckpointMetadata, differences, read_note

RECIPE: dict[str, Any] = {
    "run": "./a",
    "losses": {"align": {"weight": 1.0}},
    "train": {"steps": 10, "log_every": 5, "sinks": []},
    "loader": {"prefetch": 2},
    "evaluate": {},
}


@pytest.mark.parametrize(
    ("change", "told"),
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
def test_differences(change: dict[str, Any], told: list[str]) -> None:
    assert differences(RECIPE, RECIPE | change) == told


@pytest.mark.parametrize("best", [None, Best(3, 0.5, {"q": 0.5})])
def test_note_survives_json(best: Best | None) -> None:
    import json

    note = CheckpointMetadata(RECIPE, "abc", {"q": 0.1}, best)
    assert read_note(json.loads(json.dumps(note.as_json()))) == note


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
