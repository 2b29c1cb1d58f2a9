"""Two teachers side by side, and teachers whose vectors are those of other texts."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jdistill
from jdistill import cli
from jdistill.config import UserError
from jdistill.loader import Loader
from jdistill.verbs import embed, load_recipe, train
from tests.tiny import WORDS, tiny_bert_folder
from tests.verbs.conftest import Job, make_job

SIDE_BY_SIDE = {
    "both": {"kind": "embed_cosine", "teacher": ["small", "big"]},
    "scores": {"kind": "score_zscore", "teacher": ["big", "small"]},
    "one": {"kind": "embed_cosine", "teacher": "big", "weight": 0.5},
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job with teachers of width 32, like the student, and 16."""
    job = make_job(tmp_path_factory.mktemp("two"))
    small = tiny_bert_folder(job.folder / "small", hidden=16, seed=7)
    teachers = job.content["teachers"] | {"small": {"model": str(small), "shard_rows": 64}}
    job = Job(job.folder, job.content | {"teachers": teachers, "losses": SIDE_BY_SIDE})
    embed(load_recipe(job.write()))
    return job


@pytest.mark.parity
def test_two_teachers_side_by_side_from_text_to_folder(two: Job, capsys) -> None:
    assert cli.main(["train", two.write(), "train.steps=12", "train.optimizer.peak_lr=3e-3"]) == 0
    lines = [json.loads(line) for line in (two.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss/both"] for line in lines if "train/loss/both" in line]
    assert losses[-1] < losses[0]
    assert {"evaluate/fidelity_big/cosine", "evaluate/fidelity_small/overlap@10"} <= set(lines[0])

    model = jdistill.load(two.folder / "run")
    assert model.student.config.projections == {"small": 16}
    assert set(model.params["projection"]) == {"small"}
    capsys.readouterr()
    assert cli.main(["evaluate", str(two.folder / "run"), "--json"]) == 0
    (results,) = json.loads(capsys.readouterr().out).values()
    assert {"fidelity_big/cosine", "fidelity_small/overlap@10"} <= set(results)

    out = two.folder / "exported"
    assert cli.main(["export", str(two.folder / "run"), str(out), "projection=dense"]) == 0
    assert "equals the student" in capsys.readouterr().out
    assert jdistill.load(out).width == 16
    card = (out / "README.md").read_text()
    assert all(teacher in card for teacher in ("small", "big"))


def test_a_step_learns_what_the_vectors_side_by_side_say(two: Job, monkeypatch) -> None:
    """The logged loss is the cosine distance to the concatenation, by hand."""
    content = two.write("hand.yaml", run=str(two.folder / "by hand"), evaluate={}, fidelity=None)
    recipe = load_recipe(content, ["train.steps=1", "student.dropout=0"])
    seen: list[Any] = []
    batch_of = Loader.batch
    monkeypatch.setattr(Loader, "batch", lambda self, *a: seen.append(batch_of(self, *a)) or seen[-1])
    from jdistill.verbs.train import make_run_student, open_store

    student, params = make_run_student(recipe, open_store(recipe))
    train(recipe)
    batch = seen[0]
    distances = []
    for tokens, name in ((batch.queries, "queries"), (batch.documents, "documents")):
        flat = type(tokens)(*(jnp.asarray(x.reshape(16, -1)) for x in tokens[:2]))
        ours = student.encode(params, flat)
        ours = np.concatenate([np.asarray(student.project(params, ours, "small")), np.asarray(ours)], axis=1)
        theirs = np.concatenate([getattr(batch.targets[t], name).reshape(16, -1) for t in ("small", "big")], axis=1)
        cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        distances.append(1 - cosines)
    lines = [json.loads(line) for line in (two.folder / "by hand" / "metrics.jsonl").read_text().splitlines()]
    logged = next(line["train/loss/both"] for line in lines if "train/loss/both" in line)
    assert logged == pytest.approx(np.mean(distances), rel=1e-5)


def test_teachers_as_wide_as_the_student_need_a_projection(two: Job, tmp_path: Path) -> None:
    twin = two.content["teachers"]["big"]
    losses = {"both": {"kind": "embed_cosine", "teacher": ["big", "twin"]}}
    recipe = load_recipe(
        two.write("twin.yaml", teachers={"big": twin, "twin": twin}, losses=losses, run=str(tmp_path / "run"))
    )
    embed(recipe)
    with pytest.raises(UserError, match=r"losses.both.teacher: several teachers \(big, twin\).*: linear"):
        train(recipe)


def test_vectors_in_another_order_are_reported(tmp_path: Path, capsys) -> None:
    """A teacher file whose rows have moved by one; the run with the file as it was says nothing."""
    job = make_job(tmp_path)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[:40], rng.integers(4, 9))) for _ in range(192)]
    pq.write_table(pa.table({"q": texts[:96], "d": texts[96:]}), tmp_path / "pairs.parquet")
    settings = {"steps": 1, "global_batch_size": 96, "evaluate_at_start": False}
    teacher = {"big": {**job.content["teachers"]["big"], "shard_rows": 512}}
    sections: dict[str, Any] = {"train": settings, "teachers": teacher, "evaluate": {}, "fidelity": None}
    embed(load_recipe(job.write(**sections)))
    assert train(load_recipe(job.write(**sections))).warnings == ()
    assert "warning" not in capsys.readouterr().err

    (shard,) = (tmp_path / "store" / "teachers" / "big" / "shards").glob("*.npy")
    np.save(shard, np.roll(np.load(shard), 1, axis=0))
    (line,) = train(load_recipe(job.write(run=str(tmp_path / "moved"), **sections))).warnings
    assert line.startswith("losses.align: teacher 'big': its vectors do not seem to belong to their texts")
    assert f"warning: {line}" in capsys.readouterr().err.splitlines()
