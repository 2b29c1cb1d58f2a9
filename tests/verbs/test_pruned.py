"""A run whose student is cut out of a model: what it says, what it goes on with, and what a plan knows of it."""

import jax
import numpy as np
import pytest

from jdistill import verbs
from jdistill.checkpoint import complete_steps
from jdistill.plan.student import planned_student
from jdistill.store import Store
from jdistill.student import StudentConfig
from jdistill.verbs import load_recipe
from jdistill.verbs.train import corpus_of, make_run_student
from tests.tiny import VOCABULARY, tiny_bert_folder

CUTS = {"keep_layers": 2, "width": {"to": 24}, "intermediate": 40, "vocabulary": {"size": 95}}


@pytest.fixture(scope="module")
def written(embedded):
    teacher = embedded.content["student"]["init"]
    return embedded.write(
        "pruned.yaml",
        run=str(embedded.folder / "pruned"),
        student={"init": teacher, "prompts": {"query": "the "}, **CUTS},
    )


def test_a_run_says_what_it_made_and_how_good_it_is_before_training(written, capsys):
    recipe = load_recipe(written)
    verbs.train(recipe)
    said = capsys.readouterr().err
    made = said.index("-> layers 0 2 of 3, 95 of 113 tokens")
    assert said.index("parameters |") < made < said.index("step 0/4  sts:") < said.index("step 1/4")
    # Going on, the student is that of the folder, and is not made again.
    student, params = make_run_student(recipe, Store.open(recipe.store), say=pytest.fail)
    assert complete_steps(recipe.run)
    assert student.tokenizer.vocab_size == params["encoder"]["embeddings"]["words"].shape[0] == 95
    verbs.train(recipe)
    assert "is finished" in capsys.readouterr().err
    report = verbs.evaluate([recipe.run])
    assert "spearman" in report


def test_before_the_first_checkpoint_the_same_student_is_made_again(written, embedded):
    recipe = load_recipe(written, [f"run={embedded.folder / 'another'}"])
    store = Store.open(recipe.store)
    (one, first), (other, second) = (make_run_student(recipe, store) for _ in range(2))
    assert one.config == other.config
    assert one.tokenizer.fingerprint == other.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, first, second)
    texts = [text for chunk in corpus_of(recipe, store, one.prompts).chunks() for text in chunk]
    assert len(texts) == len(set(texts)) == 96
    assert sum(text.startswith("the ") for text in texts) >= 48


def test_a_vocabulary_counts_the_words_of_an_inherited_prompt(embedded, tmp_path):
    """`zwei` stands in the prompt of `init` alone, so it is among the frequent tokens only if that is counted."""
    vocabulary = (*VOCABULARY, "zwei")
    init = tiny_bert_folder(tmp_path / "init", vocab=vocabulary, prompts={"passage": "zwei "})
    written = embedded.write("inherited.yaml", run=str(tmp_path / "run"))
    recipe = load_recipe(written)
    for given, counted in (({}, True), ({"document": ""}, False)):
        student = {"init": str(init), "vocabulary": {"size": 68}, "prompts": given}
        changed = recipe.model_copy(update={"student": StudentConfig.model_validate(student)})
        made, _ = make_run_student(changed, Store.open(recipe.store))
        assert ("zwei" in made.tokenizer.ids) == counted


@pytest.mark.parametrize(
    "cuts", [CUTS, {"vocabulary": {"min_count": 2}}, {"encoder": {"kind": "static"}, "width": {"to": 20}}]
)
def test_a_plan_knows_the_sizes(embedded, cuts):
    recipe = load_recipe(embedded.write("plan.yaml", run=str(embedded.folder / "no run")))
    config = StudentConfig.model_validate({"init": recipe.student.init, **cuts})
    planned = planned_student(config, {"big": 32})
    made = make_run_student(recipe.model_copy(update={"student": config}), Store.open(recipe.store))[1]
    shapes, known = (jax.tree.map(lambda x: x.shape, params) for params in (made, planned.params))
    if config.vocabulary is not None and config.vocabulary.size is None:
        known["encoder"]["embeddings"]["words"] = shapes["encoder"]["embeddings"]["words"]
        assert any("all 113 tokens are kept" in line for line in planned.assumed)
    assert known == shapes
