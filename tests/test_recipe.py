"""What spans the sections of a recipe."""

from typing import Any

import pytest

from jdistill.config import UserError, dump_yaml, load_config, parse
from jdistill.recipe import Recipe

DATA = {"rows": {"path": "rows.parquet", "columns": {"query": "q", "document": "d"}}}


def recipe(losses: dict[str, Any], *teachers: str, **changes: Any) -> Recipe:
    content = {
        "store": "store",
        "run": "run",
        "data": DATA,
        "teachers": {name: {"model": name} for name in teachers},
        "student": {"init": "base"},
        "losses": losses,
        "train": {"steps": 1},
    }
    return parse(Recipe, content | changes, where="x.yaml")


ALIGN = {"kind": "embed_cosine"}


def test_the_only_teacher_need_not_be_named():
    terms = recipe({"align": ALIGN, "contrast": {"kind": "info_nce"}}, "a").terms()
    assert terms["align"].teachers == ("a",)
    assert terms["contrast"].teacher is None
    assert terms["contrast"].teachers == ()


def test_several_teachers_are_named_by_each_term():
    losses = {"one": {**ALIGN, "teacher": "b"}, "both": {**ALIGN, "teacher": ["b", "a"]}}
    whole = recipe(losses, "a", "b", "c")
    assert {name: term.teachers for name, term in whole.terms().items()} == {"one": ("b",), "both": ("b", "a")}


def test_a_list_of_teachers_survives_yaml(tmp_path):
    whole = recipe({"both": {**ALIGN, "teacher": ["b", "a"]}}, "a", "b")
    (tmp_path / "recipe.yaml").write_text(dump_yaml(whole))
    assert load_config(Recipe, tmp_path / "recipe.yaml") == whole


@pytest.mark.parametrize(
    ("teacher", "teachers", "message"),
    [
        (None, (), r"losses.align.teacher: 'embed_cosine' needs a teacher; add one under 'teachers'"),
        (None, ("a", "b"), r"losses.align.teacher: there are several teachers \(a, b\); name one, or a list of them"),
        ("c", ("a", "b"), r"losses.align.teacher: no teacher is called 'c'. Known: a, b"),
        (["a", "c"], ("a", "b"), r"losses.align.teacher: no teacher is called 'c'. Known: a, b"),
        ("a", (), r"no teacher is called 'a'. Known: none"),
    ],
)
def test_teachers_that_are_not_there_are_refused(teacher, teachers, message):
    with pytest.raises(UserError, match=message):
        recipe({"align": {**ALIGN, "teacher": teacher}}, *teachers)


def test_the_teacher_of_a_loss_inside_another_is_that_of_the_term():
    nested = {"kind": "matryoshka", "loss": ALIGN, "dims": [8, 4]}
    assert recipe({"prefixes": nested}, "a").terms()["prefixes"].teachers == ("a",)
    with pytest.raises(UserError, match="several teachers"):
        recipe({"prefixes": nested}, "a", "b")


def test_some_data_must_train():
    with pytest.raises(UserError, match="every source has the role 'heldout'"):
        recipe({"align": ALIGN}, "a", data={"rows": {**DATA["rows"], "role": "heldout"}})


@pytest.mark.parametrize(
    ("store", "run", "problem"),
    [
        ("a", "a", "run: the folder a is the store"),
        ("a", "./b/../a/run", "or inside it"),
        ("a", "", "run: is empty"),
        (" ", "b", "store: is empty"),
        ("link", "target/run", "or inside it"),
    ],
)
def test_a_run_is_outside_the_store(tmp_path, monkeypatch, store, run, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(UserError, match=problem):
        recipe({"contrast": {"kind": "info_nce"}}, store=store, run=run)
    assert recipe({"contrast": {"kind": "info_nce"}}, store="a/store", run="a").run == "a"


def test_home_is_expanded_in_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    whole = recipe({"contrast": {"kind": "info_nce"}}, store="~/s", run="~/r", student={"init": "~/m"})
    assert (whole.store, whole.run, whole.student.init) == (
        "/home/somebody/s",
        "/home/somebody/r",
        "/home/somebody/m",
    )


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_fit_into_63_bits(seed):
    with pytest.raises(UserError, match="seed: is "):
        recipe({"contrast": {"kind": "info_nce"}}, seed=seed)
