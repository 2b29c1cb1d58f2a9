"""Model FLOPs by formula against a hand count, and against XLA's own count of the compiled step."""

import jax
import pytest

from jdistill.parallel import make_mesh
from jdistill.plan import RowForm, Shared, SharedRows
from jdistill.plan.compiled import compile_step, memory_of
from jdistill.plan.flops import model_flops
from jdistill.plan.job import batch_bytes, trace
from tests.plan.tiny_job import tiny_job

ROWS = 64
ALIGN = {"align": tiny_job().terms["align"]}


def test_a_small_bert_by_hand():
    tokens, width, inner = ROWS * (16 + 32), 256, 512
    matrices = 4 * width * width + 2 * width * inner
    attention = 2 * 2 * width * ROWS * (16 * 16 + 32 * 32)  # queries with keys, weights with values
    projection = 2 * 2 * ROWS * width * 384
    assert model_flops(tiny_job(), ROWS) == 3 * (2 * matrices * tokens + attention + projection)


@pytest.mark.parametrize(
    ("student", "tolerance"),
    [
        ({}, 0.03),
        ({"backbone": "frozen"}, 0.03),
        # Of the only layer three matrices need no derivative of their input, and two have one of the merged matrix.
        ({"lora": {"rank": 4}}, 0.1),
    ],
    ids=str,
)
def test_the_formula_agrees_with_the_compiler_where_nothing_is_looped(student, tolerance):
    job = tiny_job({"dtype": "float32", **student}, terms=ALIGN)
    counted = trace(job, make_mesh(jax.devices()[:1]), ROWS).lower().compile().cost_analysis()["flops"]
    assert counted == pytest.approx(model_flops(job, ROWS), rel=tolerance)


def test_an_encoder_whose_hidden_states_are_cached_does_not_run():
    cached, frozen = (tiny_job({"dtype": "float32", "backbone": kind}, terms=ALIGN) for kind in ("cached", "frozen"))
    counted = trace(cached, make_mesh(jax.devices()[:1]), ROWS).lower().compile().cost_analysis()["flops"]
    # The projection alone is multiplied, but not for a derivative of its input, which nothing needs.
    assert counted == pytest.approx(2 / 3 * model_flops(cached, ROWS), rel=0.12)
    assert model_flops(cached, ROWS) < 0.05 * model_flops(frozen, ROWS)
    assert model_flops(frozen, ROWS) < 0.72 * model_flops(tiny_job(terms=ALIGN), ROWS)
    assert batch_bytes(cached, ROWS, 8) - batch_bytes(frozen, ROWS, 8) == ROWS * (16 + 32) * 256 * 4


def test_work_is_that_of_the_rows_that_texts_share():
    packed = RowForm(16, 32, 1, 0, Shared(SharedRows(64, 0.125), SharedRows(64, 0.25), 1))
    alone, sharing = (tiny_job(terms=ALIGN, rows=rows) for rows in (RowForm(16, 32, 1, 0), packed))
    assert model_flops(sharing, ROWS) == pytest.approx(0.5 * model_flops(alone, ROWS), rel=0.01)


def test_a_batch_has_the_bytes_of_its_arrays():
    tokens, vectors, numbers = ROWS * (16 + 32) * 5, ROWS * 2 * 384 * 4, ROWS * 2 * 4
    assert batch_bytes(tiny_job(), ROWS, 8) == tokens + vectors + numbers
    # 8 rows a piece: of queries 2 rows are full, and 4 of documents are, so that no piece has a part of one.
    shared = RowForm(16, 32, 1, 0, Shared(SharedRows(64, 0.25), SharedRows(64, 0.45), 1))
    assert batch_bytes(tiny_job(rows=shared), ROWS, 8) == tokens + vectors + numbers + 8 * (2 + 4) * 64 * 4


def test_a_compiled_step_reports_what_xla_does():
    job, mesh = tiny_job({"dtype": "float32"}), make_mesh(jax.devices())
    step, program = compile_step(job, mesh, ROWS), trace(job, mesh, ROWS).lower().compile()
    analysis, cost = program.memory_analysis(), program.cost_analysis()
    assert step.memory == memory_of(program)
    assert step.memory.arguments == analysis.argument_size_in_bytes
    assert step.memory.output == analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    assert step.memory.temporary == analysis.temp_size_in_bytes
    assert step.memory.program == analysis.generated_code_size_in_bytes
    assert step.memory.peak == analysis.peak_memory_in_bytes
    assert (step.flops, step.bytes_accessed) == (cost["flops"], cost["bytes accessed"])
    assert step.notes == ()
    parameters = sum(x.size * 4 for x in jax.tree.leaves(job.params))
    reduced = sum(c.bytes for c in step.collectives if c.kind == "all-reduce")
    assert reduced == pytest.approx(parameters, rel=0.01), "gradients are reduced once, over all devices"
