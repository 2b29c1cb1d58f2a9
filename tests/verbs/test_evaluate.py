"""What `evaluate` compares, besides what its evaluators measure."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from jdistill.config import UserError
from jdistill.store import Store
from jdistill.verbs import embed, evaluate, load_recipe
from jdistill.verbs.evaluate import make_evaluators, recorded
from jdistill.verbs.teachers import find_teacher
from tests.verbs.conftest import Job

ASKED = {"max_length": 7, "layer": 2, "truncate_dim": 5, "prompts": {"query": "the red dog: ", "document": "music "}}


def with_sides(job: Job, **teacher) -> dict:
    """Sections of a recipe whose evaluators ask for both sides, and whose teacher is asked in some way."""
    sts = job.content["evaluate"]["sts"]
    teachers = {"big": job.content["teachers"]["big"] | teacher}
    return {"teachers": teachers, "evaluate": {side: {**sts, "side": side} for side in ("query", "document")}}


def spearman_by_hand(job: Job, side: str) -> float:
    """Of the teacher asked as `ASKED` says, with nothing but transformers."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.folder / "teacher")
    model = AutoModel.from_pretrained(job.folder / "teacher").eval()
    table = pq.read_table(job.folder / "sts.parquet").to_pydict()

    def embedded(text: str) -> np.ndarray:
        tokens = tokenizer(ASKED["prompts"][side] + text, truncation=True, max_length=7, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**tokens, output_hidden_states=True).hidden_states[ASKED["layer"]]
        return hidden[0].mean(0).numpy()[: ASKED["truncate_dim"]]

    pairs = [[embedded(text) for text in pair] for pair in zip(table["sentence1"], table["sentence2"], strict=True)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    return spearmanr(cosines, table["score"])[0]


@pytest.mark.parametrize("called", ["big", "teacher"])
def test_a_teacher_is_measured_as_the_recipe_asks_it(job, called):
    model = str(job.folder / "teacher") if called == "teacher" else called
    results = {}
    for name, asked in (("asked", ASKED), ("plain", {})):
        recipe = job.write(f"{name}.yaml", **with_sides(job, **asked))
        results[name] = json.loads(evaluate([model], config=recipe, as_json=True))[model]
    for side in ("query", "document"):
        key = f"{side}/spearman_cosine"
        assert results["asked"][key] == pytest.approx(spearman_by_hand(job, side), abs=1e-6)
        assert abs(results["asked"][key] - results["plain"][key]) > 0.01
    assert results["asked"]["query/spearman_cosine"] != results["asked"]["document/spearman_cosine"]


def test_a_teacher_beside_its_own_vectors_is_perfectly_alike(embedded):
    (metrics,) = json.loads(evaluate(["big"], config=embedded.write("own.yaml"), as_json=True)).values()
    assert metrics["fidelity_big/cosine"] == pytest.approx(1, abs=1e-5)
    assert metrics["fidelity_big/spearman"] == pytest.approx(1, abs=1e-5)


def test_a_teacher_that_the_store_does_not_know_so_is_refused(embedded):
    recipe = embedded.write("other.yaml", **with_sides(embedded, max_length=7))
    with pytest.raises(UserError, match="the vectors of teacher 'big' have other settings: max_length"):
        evaluate(["big"], config=recipe)


def test_stored_vectors_stand_for_a_teacher_that_cannot_be_loaded(embedded, monkeypatch, capsys):
    held = {"kind": "sts", "path": str(embedded.folder / "sts.parquet")}  # its texts are held-out rows of the store
    pq.write_table(
        pa.table(
            {"sentence1": ["a", "the dog"], "sentence2": ["b", "a tree"], "score": [0.0, 1.0], "text": ["a", "b"]}
        ),
        embedded.folder / "elsewhere.parquet",
    )
    elsewhere = {"kind": "sts", "path": str(embedded.folder / "elsewhere.parquet")}
    speed = {"kind": "throughput", "path": str(embedded.folder / "pairs.parquet"), "text": "q", "passes": 1}
    sections = {"held": held, "elsewhere": elsewhere, "speed": speed}
    recipe = embedded.write("stored.yaml", evaluate=sections)
    (by_model,) = json.loads(evaluate(["big"], config=recipe, as_json=True)).values()
    assert {"elsewhere/spearman_cosine", "speed/rows_per_second"} <= set(by_model)
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "torch", None)
    (stored,) = json.loads(evaluate(["big"], config=recipe, as_json=True)).values()
    assert {key.partition("/")[0] for key in stored} == {"held", "fidelity_big"}
    for key, value in stored.items():
        assert value == pytest.approx(by_model[key], abs=1e-5), key
    warning = capsys.readouterr().err
    assert "skipped elsewhere, speed, which the store cannot answer" in warning
    assert "teachers.big: needs PyTorch" in warning

    recipe = embedded.write("stored.yaml", evaluate={"elsewhere": elsewhere}, fidelity=None)
    with pytest.raises(UserError, match=r"needs PyTorch.*pip install.*lacks texts for elsewhere\."):
        evaluate(["big"], config=recipe)
    recipe = embedded.write("stored.yaml", store=str(embedded.folder / "nowhere"))
    with pytest.raises(UserError, match=r"needs PyTorch.*no store at"):
        evaluate(["big"], config=recipe)


def test_which_models_are_teachers(job, monkeypatch):
    monkeypatch.chdir(job.folder)
    big = job.content["teachers"]["big"]
    losses = {"a": {"kind": "embed_cosine", "teacher": "big"}}
    recipe = load_recipe(job.write(teachers={"big": big, "hub": {"model": "org/model"}}, losses=losses))
    assert find_teacher(recipe, "big") == "big"
    assert {find_teacher(recipe, model) for model in ("teacher", "./teacher/", big["model"])} == {"big"}
    assert find_teacher(recipe, "org/model") == "hub"
    assert find_teacher(recipe, "org/other") is None
    (job.folder / "big" / "architecture").mkdir(parents=True)
    assert find_teacher(recipe, "big") is None  # a run that has the teacher's name
    recipe = load_recipe(job.write(teachers={"big": big, "early": {**big, "layer": 1}}, losses=losses))
    assert find_teacher(recipe, "early") == "early"
    with pytest.raises(UserError, match=r"several teachers of the recipe \(big, early\).*Pass the names"):
        find_teacher(recipe, "teacher")


def test_each_distinct_heldout_text_is_compared_once(job):
    queries = ["a cat", "a cat", "a dog", "the river", "a bird"]
    documents = ["the old house", "the red train", "the old house", "the old house", "the river"]
    pq.write_table(pa.table({"q": queries, "d": documents}), job.folder / "heldout.parquet")
    recipe = load_recipe(job.write())
    embed(recipe)
    fidelity = make_evaluators(recipe, Store.open(recipe.store))["fidelity_big"]
    assert {side: sorted(texts) for side, texts in fidelity.texts.items()} == {
        "document": ["the old house", "the red train", "the river"],
        "query": ["a bird", "a cat", "a dog"],
    }
    assert len(fidelity.teacher) == 6


def test_damaged_lines_of_metrics_cost_themselves_only(tmp_path):
    lines = ['{"step": 0, "evaluate/sts/spearman": 0.5}', '{"step": 1, "lo', "[1]", "\x00\x00"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert recorded(tmp_path) == {"before": {"sts/spearman": 0.5}}
