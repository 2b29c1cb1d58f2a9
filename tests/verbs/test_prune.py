"""`jdistill prune`: the folder that it writes, the run that starts from it, and what is said where it is missing."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jdistill import cli, verbs
from jdistill.config import UserError
from jdistill.plan.student import planned_student
from jdistill.recipe import Recipe
from jdistill.store import Store
from jdistill.student import Prompts
from jdistill.verbs import load_recipe
from jdistill.verbs.prune import check_pruned, training_texts
from jdistill.verbs.train import make_run_student
from tests.tiny import SENTENCES, VOCABULARY, tiny_bert_folder

CUTS = {"keep_layers": 2, "width": {"to": 24}, "intermediate": 40, "vocabulary": {"size": 95}}


def _write(embedded, folder, *, init=None, cuts=CUTS, **student):
    """A recipe that prunes a model to `folder/small` and starts from that."""
    small, init = str(folder / "small"), str(init or embedded.content["student"]["init"])
    return embedded.write(
        f"{folder.name}.yaml",
        run=str(folder / "run"),
        prune={"init": init, "output": small, **cuts},
        student={"init": small, **student},
    )


@pytest.mark.parity
def test_a_model_is_pruned_trained_exported_and_loaded(embedded, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    config, small = _write(embedded, tmp_path, prompts={"query": "the "}), tmp_path / "small"
    assert cli.main(["prune", config]) == 0
    said = capsys.readouterr().out
    assert "to layers 0 2 of 3, 95 of 113 tokens" in said
    assert "0.03M parameters, 0.00M of them words -> 0.01M parameters, 0.00M of them words." in said
    assert f"Wrote {small}" in said
    theirs = SentenceTransformer(str(small), device="cpu")
    assert theirs.prompts["query"] == "the "
    assert theirs.encode(list(SENTENCES)).shape == (8, 24)
    assert cli.main(["show", "--check", config]) == 0
    assert cli.main(["train", config]) == 0
    assert f"{small}: 0.01M parameters" in capsys.readouterr().err
    assert cli.main(["train", config]) == 0
    assert "is finished" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(list(SENTENCES))
    assert np.isfinite(found).all()
    assert found.shape == (8, 24)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "teacher" in card  # what was pruned, not the folder in between
    assert str(tmp_path) not in card


def test_pruning_again_gives_the_same_bytes_and_replaces_only_its_own_folder(embedded, tmp_path):
    recipe, small = load_recipe(_write(embedded, tmp_path)), tmp_path / "small"
    verbs.prune(recipe)
    files = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    verbs.prune(recipe)
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == files
    (small / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"contains files that no export wrote \(notes.txt\)"):
        verbs.prune(recipe)
    assert {path for path in small.rglob("*") if path.is_file()} == {*files, small / "notes.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_failed_prune_leaves_the_earlier_folder(embedded, tmp_path, monkeypatch):
    recipe = load_recipe(_write(embedded, tmp_path))
    verbs.prune(recipe)
    files = {path: path.read_bytes() for path in (tmp_path / "small").rglob("*") if path.is_file()}
    changed = recipe.model_copy(update={"prune": recipe.prune.model_copy(update={"intermediate": 20})})
    monkeypatch.setattr("jdistill.student.tokenizer.Tokenizer.save", _fail)
    with pytest.raises(OSError, match="no space"):
        verbs.prune(changed)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def _fail(*arguments, **options):
    raise OSError("no space")


def test_counted_and_sampled_are_the_training_texts_with_the_students_prompts(embedded, tmp_path):
    recipe = load_recipe(_write(embedded, tmp_path))
    texts = training_texts(recipe, Store.open(recipe.store), Prompts(query="the "))
    listed = [text for chunk in texts.chunks() for text in chunk]
    assert len(listed) == len(set(listed)) == 96
    assert sum(text.startswith("the ") for text in listed) >= 48


def test_a_vocabulary_counts_the_words_of_an_inherited_prompt(embedded, tmp_path):
    """`zwei` stands in the prompt of `init` alone, so it is among the frequent tokens only if that is counted."""
    vocabulary = (*VOCABULARY, "zwei")
    init = tiny_bert_folder(tmp_path / "init", vocab=vocabulary, prompts={"passage": "zwei "})
    for given, counted in (({}, True), ({"document": ""}, False)):
        config = _write(embedded, tmp_path, init=init, cuts={"vocabulary": {"size": 68}}, prompts=given)
        recipe = load_recipe(config)
        verbs.prune(recipe)
        made, _ = make_run_student(recipe, Store.open(recipe.store))
        assert ("zwei" in made.tokenizer.ids) == counted
        assert made.prompts.document == ("zwei " if counted else "")


@pytest.mark.parametrize("command", [["train"], ["show", "--check"], ["plan", "--topology", "h100:8"]], ids=str)
def test_without_the_folder_the_message_asks_for_prune(embedded, tmp_path, capsys, command):
    config = _write(embedded, tmp_path)
    assert cli.main([*command[:1], config, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert f"student.init: {tmp_path / 'small'} does not exist yet. Run jdistill prune" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [["train"], ["show", "--check"], ["plan", "--topology", "h100:8"]], ids=str)
def test_a_folder_of_other_cuts_is_refused(embedded, tmp_path, capsys, command):
    verbs.prune(load_recipe(_write(embedded, tmp_path)))
    config = _write(embedded, tmp_path, cuts={**CUTS, "intermediate": 20})
    assert cli.main([*command[:1], config, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert f"student.init: {tmp_path / 'small'} was pruned with other settings: prune.intermediate: 40 -> 20." in error
    assert error.count("\n") == 1


def test_a_moved_init_is_the_same(embedded, tmp_path):
    recipe = load_recipe(_write(embedded, tmp_path))
    verbs.prune(recipe)
    moved = recipe.prune.model_copy(update={"init": str(tmp_path / Path(recipe.prune.init).name)})
    check_pruned(recipe.model_copy(update={"prune": moved}))
    other = recipe.prune.model_copy(update={"init": str(tmp_path / "another")})
    with pytest.raises(UserError, match=r"was pruned with other settings: prune\.init: "):
        check_pruned(recipe.model_copy(update={"prune": other}))


def test_a_folder_that_prune_did_not_write(embedded, tmp_path):
    recipe = load_recipe(_write(embedded, tmp_path))
    tiny_bert_folder(tmp_path / "small")
    with pytest.raises(UserError, match="small was not written by jdistill prune"):
        check_pruned(recipe)


def test_a_plan_knows_the_sizes_of_the_pruned_folder(embedded, tmp_path):
    recipe = load_recipe(_write(embedded, tmp_path))
    verbs.prune(recipe)
    planned = planned_student(recipe.student, {"big": 32})
    made = make_run_student(recipe, Store.open(recipe.store))[1]
    shapes, known = (jax.tree.map(lambda x: x.shape, params) for params in (made, planned.params))
    assert known == shapes
    assert planned.assumed == []


def test_a_recipe_without_the_section_and_one_without_a_store(embedded, tmp_path):
    with pytest.raises(UserError, match=r"no section 'prune'\. Add one"):
        verbs.prune(load_recipe(embedded.write("plain.yaml")))
    recipe = load_recipe(_write(embedded, tmp_path), [f"store={tmp_path / 'none'}"])
    with pytest.raises(UserError, match="Create it with `jdistill embed`"):
        verbs.prune(recipe)


@pytest.mark.parametrize(
    ("prune", "student", "words"),
    [
        ({}, {"init": "other"}, r"student.init: is other, but jdistill prune writes .* small. Set both"),
        ({"vocabulary": {"size": 5}}, {"tokenizer": "t"}, "prune.vocabulary: rebuilds the tokenizer"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(embedded, prune, student, words):
    content = json.loads(json.dumps(embedded.content))
    content["prune"] = {"init": "x", "output": "small", "intermediate": 5, **prune}
    content["student"] = {"init": "small", **student}
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(content)
