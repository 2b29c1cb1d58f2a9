"""The full pipeline on a tiny model: embed, train, resume, evaluate, export, load again."""

import json

import numpy as np
import pytest

import jdistill
from jdistill import cli
from jdistill.checkpoint import load_student_params
from jdistill.verbs import load_recipe
from tests.verbs.conftest import sentences


def run(*arguments) -> int:
    return cli.main([str(a) for a in arguments])


@pytest.mark.parity
def test_text_to_verified_folder(job, capsys):
    recipe = job.write()
    assert run("embed", recipe) == 0
    assert run("train", recipe) == 0
    assert run("evaluate", job.folder / "run", job.folder / "teacher", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    student, teacher = results.values()
    assert teacher["fidelity_big/cosine"] == pytest.approx(1.0, abs=1e-5)
    assert 0 < student["fidelity_big/cosine"] < 1
    assert set(student) == set(teacher) >= {"sts/spearman_cosine", "fidelity_big/overlap@10"}

    out = job.folder / "exported"
    assert run("export", job.folder / "run", out) == 0
    printed = capsys.readouterr().out
    assert "equals the student" in printed
    assert "sentence-transformers" in printed

    texts = sentences(9)
    trained, exported = jdistill.load(job.folder / "run"), jdistill.load(out)
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(out), device="cpu").encode(texts)
    np.testing.assert_allclose(exported.encode(texts), trained.encode(texts), atol=1e-6)
    np.testing.assert_allclose(peer, trained.encode(texts), atol=1e-5)
    card = (out / "README.md").read_text()
    assert "embed_cosine" in card
    assert "before training" in card


def test_training_moves_the_student_towards_the_teacher(embedded):
    recipe = embedded.write("long.yaml", run=str(embedded.folder / "long"))
    assert run("train", recipe, "train.steps=40", "train.evaluate_every=40", "train.optimizer.peak_lr=3e-3") == 0
    lines = [json.loads(line) for line in (embedded.folder / "long" / "metrics.jsonl").read_text().splitlines()]
    cosine = [line["evaluate/fidelity_big/cosine"] for line in lines if "evaluate/fidelity_big/cosine" in line]
    assert cosine[-1] > cosine[0] + 0.02


def test_a_run_in_two_halves_equals_the_run_never_stopped(embedded, monkeypatch):
    whole = embedded.write("whole.yaml", run=str(embedded.folder / "whole"))
    halves = embedded.write("halves.yaml", run=str(embedded.folder / "halves"))
    assert run("train", whole) == 0
    recipe = load_recipe(halves)
    stop_after(recipe, 2, monkeypatch)
    assert not (embedded.folder / "halves" / "result.json").exists()
    assert run("train", halves) == 0
    first, second = (load_student_params(embedded.folder / name) for name in ("whole", "halves"))
    same = [np.array_equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True)]
    assert same
    assert all(same)


def stop_after(recipe, step: int, monkeypatch) -> None:
    """Train until the checkpoint of `step` is on disk, then die as a killed process would: without a word."""
    from jdistill.checkpoint import Checkpoints
    from jdistill.verbs import train

    class DiedError(BaseException):
        pass

    save = Checkpoints.save

    def save_and_die(self, at, *arguments, **options):
        save(self, at, *arguments, **options)
        if at == step:
            self.wait()
            raise DiedError

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(DiedError):
            train(recipe)


def leaves(tree) -> list:
    import jax

    return jax.tree.leaves(tree)


def test_show_prints_a_file_that_is_the_same_recipe(job, capsys):
    assert run("show", job.write(), "train.optimizer.peak_lr=1e-4") == 0
    shown = job.folder / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert load_recipe(shown) == load_recipe(job.write(), ["train.optimizer.peak_lr=1e-4"])


def test_schema_describes_every_loss(capsys):
    assert run("show", "--schema") == 0
    definitions = json.loads(capsys.readouterr().out)["$defs"]
    for kind in ("EmbedCosine", "EmbedL2", "EmbedMSE", "EmbedKL", "InfoNCE", "ScoreZscore"):
        assert definitions[kind]["description"]
        assert all(field.get("description") for key, field in definitions[kind]["properties"].items() if key != "kind")
