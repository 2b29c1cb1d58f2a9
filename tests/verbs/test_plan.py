"""`jdistill plan` from the command line: without a store, teacher or weights, with them, and its error messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jdistill import cli
from jdistill.config import UserError
from jdistill.plan import SharedRows
from jdistill.plan.job import batch_form
from jdistill.store import Store
from jdistill.verbs import load_recipe
from jdistill.verbs.plan import Lengths, make_job
from jdistill.verbs.train import make_loader, make_run_student
from tests.plan.tiny_job import ENCODER

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
PLANNED = [path for path in CONFIGS if f"jdistill plan configs/{path.name}" in path.read_text(encoding="utf-8")]
"""These say in their head that they are planned first."""
STATE_NO_SIZES = [path for path in CONFIGS if load_recipe(path).student.encoder is None]
"""These take whatever model one has."""


def planned(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real command in its own process, where the hub is out of reach."""
    command = [sys.executable, "-m", "jdistill", "plan", *map(str, arguments)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_plan_needs_neither_store_nor_teacher_nor_weights(tmp_path):
    (tmp_path / "x.yaml").write_text(
        json.dumps(
            {
                "name": "x",
                "store": str(tmp_path / "none"),
                "run": str(tmp_path / "run"),
                "data": {"d": {"dataset": "no/data", "columns": {"query": "q", "document": "d"}}},
                "teachers": {"big": {"model": "no/teacher"}},
                "student": {"init": "no/model", "encoder": ENCODER, "max_length": 60},
                "losses": {"align": {"kind": "embed_cosine"}},
                "train": {"epochs": 1, "global_batch_size": 64},
            }
        )
    )
    done = planned(tmp_path / "x.yaml", "--json", "--topology", "h100:8", "h200:4", "train.microbatches=2")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert (first["chips"], second["chips"]) == (8, 4)
    assert not first["compiled"]
    assert first["fits"] is None
    assert first["memory"] is None
    assert first["collectives"] is None
    assert first["microbatches"] == 2
    assert (first["query_length"], first["document_length"]) == (64, 64)  # 60, padded as the loader pads
    assert any("teacher 'big' have width 1024" in sentence for sentence in first["assumed"])
    assert any("every text has the maximum of 64 tokens" in sentence for sentence in first["assumed"])
    assert second["flops"]["model_by_formula"] == pytest.approx(2 * first["flops"]["model_by_formula"])
    assert list(tmp_path.iterdir()) == [tmp_path / "x.yaml"]  # nothing was written


def test_what_is_there_is_used(embedded):
    recipe = load_recipe(embedded.write())
    job, assumed = make_job(recipe, 2, length=None, widths={})
    assert job.teacher_widths == {"big": 32}
    assert (job.rows.query_length, job.rows.document_length, job.rows.documents) == (16, 16, 1)
    assert assumed == []
    assert job.total_steps == 4
    job, _ = make_job(recipe, 2, length=Lengths(8, 24), widths={"big": 48})
    assert (job.rows.query_length, job.rows.document_length) == (8, 24)
    assert job.student.config.projections == {"big": 48}


@pytest.mark.parametrize("layout", [[], ["loader.packing=32"], ["loader.folding=true"]], ids=str)
@pytest.mark.parametrize("prompt", [[], ["student.include_prompt=false", "student.prompts.query='ask: '"]], ids=str)
def test_a_batch_is_planned_as_the_loader_makes_it(embedded, layout, prompt):
    recipe, chips = load_recipe(embedded.write(), [*layout, *prompt, "train.microbatches=2"]), 2
    job, _ = make_job(recipe, chips, length=None, widths={})
    store = Store.open(recipe.store)
    loader = make_loader(recipe, store, make_run_student(recipe, store)[0], pieces=chips * 2)
    batches = [loader.batch(step) for step in range(loader.steps_per_epoch)]
    largest = max(batches, key=lambda batch: sum(x.size for x in jax.tree.leaves(batch)))

    def forms(batch):
        return jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch)

    assert forms(batch_form(job, recipe.train.global_batch_size, chips)) == forms(largest)


def test_rows_that_texts_share_are_as_many_as_their_tokens_fill(job):
    packed, folded = (load_recipe(job.write(), [layout]) for layout in ("loader.packing=128", "loader.folding=true"))
    planned, assumed = make_job(packed, 2, length=Lengths(16, 48), widths={})
    assert planned.rows.sides == ((1, SharedRows(128, 0.125)), (1, SharedRows(128, 0.375)))
    assert "texts fill rows of 128 tokens without gaps" in assumed
    planned, _ = make_job(folded, 2, length=Lengths(16, 48), widths={})
    assert planned.rows.sides == ((1, SharedRows(32, 0.5)), (1, SharedRows(96, 0.5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v7:2x2"], "--topology v7:2x2: unknown chip 'v7'. Known: v5e, v5p, v6e, h100, h200."),
        (["--topology", "h100:8", "--length", "8x"], "--length 8x: expected tokens per text, such as 128"),
        (
            ["--topology", "h100:8", "--teacher-width", "small=3"],
            "expected a number, or TEACHER=NUMBER.",
        ),
        (["--topology", "h100:3"], "train.global_batch_size=16: does not divide over the 3 chips of h100:3. Use 15"),
        (["--topology", "h100:4", "train.fsdp=3"], "train.fsdp=3: the 4 chips of h100:4 do not divide"),
        (["--topology", "h100:16", "loader.folding=true"], "over the 16 chips of h100:16, rows two by two. Use 32"),
        (
            ["--topology", "v5e:2x2", "loader.packing=64"],
            "loader.packing=64: must be a multiple of 128 on TPUs",
        ),
        (
            ["--topology", "h100:8", "student.init=no/model"],
            "student.init: no/model is not a folder, and",
        ),
    ],
)
def test_mistakes(job, capsys, arguments, message):
    assert cli.main(["plan", job.write(), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: path.name)
def test_shipped_configurations_can_be_planned_anywhere(path):
    job, assumed = make_job(load_recipe(path), 4, length=None, widths={})
    assert job.global_batch_size % 256 == 0
    assert assumed


@pytest.mark.parametrize("path", STATE_NO_SIZES, ids=lambda path: path.name)
def test_others_say_what_a_plan_needs(path):
    with pytest.raises(UserError, match="Set its sizes, such as"):
        make_job(load_recipe(path), 4, length=None, widths={})
