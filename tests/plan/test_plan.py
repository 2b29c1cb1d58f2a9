"""A plan that is compiled for a real TPU slice, on a machine without one; its figures agree with each other."""

import json

import jax
import pytest

from jdistill.config import UserError
from jdistill.plan import Plan, RowForm, as_values, compiled, format_plan, make_plan, parse_topology, topology_devices
from jdistill.plan.compiled import needed_bytes
from jdistill.plan.job import trace
from tests.plan.libtpu import needs_libtpu
from tests.plan.tiny_job import tiny_job

CHIPS = 4
OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (372.50G) exceeds available HBM (15.75G)."
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(tiny_job(), parse_topology("v5e:2x2"))


@needs_libtpu
def test_devices_of_a_slice_that_is_not_there():
    devices = topology_devices("v5e:2x2")
    assert [device.platform for device in devices] == ["tpu"] * CHIPS
    assert {device.platform for device in jax.devices()} == {"cpu"}  # this process's own are untouched


@needs_libtpu
def test_memory_of_the_compiled_step(plan):
    parameters = sum(x.size * 4 for x in jax.tree.leaves(plan.job.params))
    assert plan.memory is not None
    assert plan.memory.parameters == parameters
    assert plan.memory.optimizer == 2 * parameters + 4, "AdamW's two means and its count"
    assert plan.memory.temporary > 0.5 * parameters  # the gradients alone, in bfloat16 or float32
    assert plan.memory.total == sum(plan.memory) < plan.topology.chip.memory
    assert plan.fits


@needs_libtpu
def test_gradients_are_reduced_once_over_all_chips(plan):
    parameters = sum(x.size * 4 for x in jax.tree.leaves(plan.job.params))
    [reduced] = [c for c in plan.collectives if c.kind == "all-reduce"]
    assert reduced.group == CHIPS
    assert reduced.bytes == pytest.approx(parameters, rel=0.001)
    assert reduced.in_loops == 0


@needs_libtpu
def test_work_of_the_compiled_step(plan):
    assert plan.compiler_flops is not None
    assert plan.program_flops == pytest.approx(plan.model_flops, rel=0.05)
    assert plan.compiler_flops == pytest.approx(plan.program_flops, rel=0.15)  # and what is no matrix product
    assert 0 < plan.traffic < 2 * (plan.compiler_bytes or 0)
    assert plan.cycles is not None
    assert plan.cycles.seconds > plan.roofline.compute
    assert plan.cycle_seconds == plan.cycles.seconds + plan.roofline.communication
    assert plan.attention == "XLA (scores pass through memory)"


@pytest.fixture(scope="module")
def longer() -> Plan:
    """Documents long enough for an attention kernel, in two pieces whose gradients are added up."""
    job = tiny_job(rows=RowForm(16, 256, 1, 0), microbatches=2)
    return make_plan(job._replace(terms={"align": job.terms["align"]}), parse_topology("v5e:2x2"))


@needs_libtpu
def test_time_of_a_step_with_attention_kernels(longer):
    assert longer.notes == []
    parameters = sum(x.size * 4 for x in jax.tree.leaves(longer.job.params))
    assert sum(c.bytes for c in longer.collectives if c.kind == "all-reduce") == pytest.approx(parameters, rel=0.001)
    assert longer.cycles is not None
    assert longer.cycles.seconds > max(longer.roofline.compute, longer.roofline.memory)
    assert 0 < longer.cycles.without < 0.5


@needs_libtpu
def test_attention_kernels_are_named_with_what_they_take(longer):
    kernels, rest = longer.attention.split("; ")
    for part in ("fwd", "dq", "dkv"):
        assert f"splash_mha_{part}_" in kernels
    assert rest == "XLA for texts of 16 tokens (their scores pass through memory)"
    text = format_plan(longer)
    assert "  attention\n    Pallas kernels splash_mha_dkv" in text
    assert f"at peak rates, {longer.cycles.without:.0%} of the chip's time" in text


@needs_libtpu
def test_a_plan_as_text_and_as_values(plan):
    text = format_plan(plan, ["something"])
    for part in ("4 x TPU v5e", "compiled ahead of time", "optimizer state", "all-reduce x", "estimate", "fits: "):
        assert part in text
    assert "    something" in text
    values = json.loads(json.dumps(as_values(plan, ["something"])))
    assert values["memory"]["total"] == plan.memory.total
    assert values["roofline_estimate"]["bound"] == plan.roofline.bound
    assert values["cycles_estimate"]["seconds_with_collectives"] == plan.cycle_seconds
    assert values["largest_batch"]["rows"] == plan.largest.rows > plan.job.global_batch_size


@needs_libtpu
def test_rows_that_texts_share_are_told(plan):
    folded = plan._replace(job=tiny_job(rows=tiny_job().rows.folded(32, 64)))
    assert "shared rows, per 16 rows: queries in 8 rows of 32 tokens and documents in 8 rows of 64" in format_plan(
        folded
    )
    values = as_values(folded)["shared_rows"]
    assert values == {"query": {"length": 32, "per_row": 0.5}, "document": {"length": 64, "per_row": 0.5}}
    assert as_values(plan)["shared_rows"] is None


class Refused:
    """A traced step that the compiler refuses, as it refuses what is too large, at once."""

    def __init__(self, traced):
        self.jaxpr = traced.jaxpr

    def lower(self):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(OUT_OF_MEMORY)


@needs_libtpu
def test_without_a_program_attention_is_that_of_the_trace(monkeypatch):
    monkeypatch.setattr(compiled, "trace", lambda *arguments: Refused(trace(*arguments)))
    plan = make_plan(tiny_job(rows=RowForm(256, 256, 1, 0)), parse_topology("v5e:2x2"))
    assert plan.attention.startswith("Pallas kernels splash_mha_dkv")
    assert plan.attention.endswith(", as traced")
    assert plan.cycles is None


@needs_libtpu
def test_a_step_that_does_not_fit_is_an_answer(monkeypatch):
    monkeypatch.setattr(compiled, "trace", lambda *arguments: Refused(trace(*arguments)))
    plan = make_plan(tiny_job(global_batch_size=2**20), parse_topology("v5e:2x2"))
    assert plan.memory is None
    assert not plan.fits
    assert plan.needed == 372.5 * 2**30
    assert plan.verdict[0].startswith("does not fit: 15.8 GiB per chip (needs 372.5 GiB). Set train.microbatches=")
    assert plan.largest is not None
    # Nearly all of it grows with the rows.
    assert plan.largest.rows == pytest.approx(2**20 * 15.75 / 372.5, rel=0.05)
    assert "needs 372.50 GiB, has 15.75 GiB of HBM" in format_plan(plan)


def test_what_the_compiler_says_that_a_step_needs():
    oom = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (372.50G) exceeds"
    )
    assert needed_bytes(oom) == 372.5 * 2**30
    assert needed_bytes("Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm.") == 17.25 * 2**30
    assert needed_bytes("something else") is None


def test_a_batch_that_does_not_divide_is_refused():
    job = tiny_job(global_batch_size=1000, microbatches=4)
    with pytest.raises(UserError, match=r"16 chips of v5e:4x4 in 4 microbatches. Use 960 or 1,024 rows"):
        make_plan(job, parse_topology("v5e:4x4"))
    with pytest.raises(UserError, match=r"train.fsdp=3: the 16 chips of v5e:4x4 do not divide"):
        make_plan(tiny_job(fsdp=3), parse_topology("v5e:4x4"))
    folded = tiny_job(global_batch_size=68, rows=tiny_job().rows.folded(32, 64))
    with pytest.raises(UserError, match=r"4 chips of v5e:2x2, rows two by two\. Use 64 or 72 rows"):
        make_plan(folded, parse_topology("v5e:2x2"))
