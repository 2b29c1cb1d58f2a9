"""What an export says of itself, and what its card may not cost."""

import sys
from typing import get_args

import pytest

import jdistill
from jdistill import cli
from jdistill.config import Config, PathText
from jdistill.export import TeacherInfo
from jdistill.store import Store, from_dataset, to_dataset
from jdistill.verbs import load_recipe
from jdistill.verbs.export import _hub_id, _papers, _teachers, _without_places

MODULE = sys.modules["jdistill.verbs.export"]  # the package has the function by this name


def test_places_on_this_machine_become_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    content = {
        "store": "/home/somebody/stores/a",
        "run": "runs/b",
        "data": {"p": {"path": "../secret/data/x.jsonl", "n": 3}, "q": {"dataset": "org/set"}, "path": {"path": None}},
        "teachers": {"t": {"model": "~/models/t"}, "u": {"model": "org/u", "prompts": {"query": "/find a/b: "}}},
        "student": {"init": "models/mine", "tokenizer": "./models/other/"},
        "evaluate": {"r": {"corpus": {"path": "eval/c.csv", "id": "/id"}}, "l": [{"path": "a/b"}, None]},
    }
    assert _without_places(content) == {
        "store": "a",
        "run": "b",
        "data": {"p": {"path": "x.jsonl", "n": 3}, "q": {"dataset": "org/set"}, "path": {"path": None}},
        "teachers": {"t": {"model": "t"}, "u": {"model": "org/u", "prompts": {"query": "/find a/b: "}}},
        "student": {"init": "mine", "tokenizer": "other"},
        "evaluate": {"r": {"corpus": {"path": "c.csv", "id": "/id"}}, "l": [{"path": "b"}, None]},
    }


def test_every_setting_that_names_a_place_is_known():
    """A new one would carry its path into cards."""
    expand = get_args(PathText)[1]
    configs, seen = [Config], set()
    while configs:
        config = configs.pop()
        configs += config.__subclasses__()
        if config.__module__.startswith("jdistill.") and not config.__module__.startswith("jdistill.demo"):
            fields = config.model_fields.items()
            seen |= {name for name, field in fields if expand in field.metadata or expand in _inside(field.annotation)}
    assert seen == {*MODULE._PLACES, *MODULE._MODELS}


def _inside(annotation):
    """What stands in an annotation, however deep."""
    return [found for each in get_args(annotation) for found in (each, *_inside(each))]


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


def test_a_teacher_that_was_embedded_is_known_by_its_weights(embedded):
    recipe = load_recipe(embedded.write("known.yaml"))
    described = Store.open(recipe.store).teacher("big").manifest["description"]
    assert len(described["weight_hash"]) == 64
    (teacher,) = _teachers(recipe)
    assert teacher == TeacherInfo("big", described["model"], None, described["weight_hash"], "embedded")


def test_imported_vectors_are_called_imported_whatever_they_say_of_themselves(embedded, tmp_path):
    store = Store.open(embedded.content["store"])
    dataset = to_dataset(store, "train", "big")
    from_dataset(dataset, None, tmp_path / "own", None, teacher="big")
    recipe = load_recipe(embedded.write("imported.yaml", store=str(tmp_path / "own")))
    assert "weight_hash" in Store.open(recipe.store).teacher("big").manifest["description"]
    assert _teachers(recipe) == [TeacherInfo("big", recipe.teachers["big"].model, vectors="imported")]
    from_dataset(dataset, None, tmp_path / "bare", {}, teacher="big")
    recipe = load_recipe(embedded.write("imported.yaml", store=str(tmp_path / "bare")))
    assert _teachers(recipe) == [TeacherInfo("big", recipe.teachers["big"].model, vectors="imported")]


def test_a_teacher_that_no_store_knows_is_the_recipes_word(embedded, tmp_path):
    named = [TeacherInfo("big", "org/model", "r1")]
    teacher = {"model": "org/model", "revision": "r1"}
    assert _teachers(load_recipe(embedded.write("a.yaml", teachers={"big": teacher}))) == named  # another's store
    absent = str(tmp_path / "absent")
    assert _teachers(load_recipe(embedded.write("a.yaml", teachers={"big": teacher}, store=absent))) == named
    other = {"other": embedded.content["teachers"]["big"]}
    (found,) = _teachers(load_recipe(embedded.write("a.yaml", teachers=other)))
    assert found.vectors == "unverified"


def test_the_way_of_training_is_cited_where_it_was_gone(embedded):
    model = jdistill.load(embedded.folder / "teacher")

    def papers(*changes: str) -> set[str]:
        return set(_papers(load_recipe(embedded.write("papers.yaml"), changes), model))

    grad_cache, lora, info_nce = "arXiv:2101.06983", "arXiv:2106.09685", "arXiv:1807.03748"
    assert info_nce in papers()
    assert not papers() & {grad_cache, lora}
    assert papers("train.microbatches=2") == papers() | {grad_cache}
    without = papers("train.microbatches=2", "losses.contrast={kind: embed_l2}")  # no row needs another
    assert not without & {grad_cache, info_nce}
    assert papers("student.lora={rank: 2}") == papers() | {lora}


def test_a_card_that_fails_costs_no_export(embedded, tmp_path, monkeypatch, capsys):
    assert cli.main(["train", embedded.write("card.yaml", run=str(tmp_path / "run"))]) == 0

    def fail(*arguments):
        raise TypeError("no such format")

    monkeypatch.setattr(MODULE, "write_card", fail)
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "could not be written (TypeError: no such format)" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "README.md").exists()
