"""What an export says of itself, and what its card may not cost."""

import sys

import pytest

from jdistill import cli
from jdistill.verbs.export import _hub_id, _without_places

MODULE = sys.modules["jdistill.verbs.export"]  # the package has the function by this name


def test_places_on_this_machine_become_names():
    content = {"store": "/home/somebody/stores/a", "data": {"p": {"path": "data/p.csv", "n": 3}}, "l": ["/x/y", None]}
    assert _without_places(content) == {"store": "a", "data": {"p": {"path": "data/p.csv", "n": 3}}, "l": ["y", None]}


@pytest.mark.parametrize(
    ("model", "cached", "expected"),
    [
        ("org/model", True, "org/model"),
        ("models/mini", False, None),
        ("folder", True, None),
        ("/models/mini", True, None),
        (None, True, None),
    ],
)
def test_only_what_came_from_the_hub_is_a_base_model(tmp_path, monkeypatch, model, cached, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(MODULE, "try_to_load_from_cache", lambda repo, name: f"{repo}/{name}" if cached else None)
    assert _hub_id(model) == expected


def test_a_card_that_fails_costs_no_export(embedded, tmp_path, monkeypatch, capsys):
    assert cli.main(["train", embedded.write("card.yaml", run=str(tmp_path / "run"))]) == 0

    def fail(*arguments):
        raise TypeError("no such format")

    monkeypatch.setattr(MODULE, "write_card", fail)
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "could not be written (TypeError: no such format)" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "README.md").exists()
