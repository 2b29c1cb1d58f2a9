"""A plan that is compiled for a real TPU slice, on a machine without one; its figures agree with each other."""

import json
from pathlib import Path

import jax
import pytest

from jdistill.config import UserError
from jdistill.plan import Plan, RowForm, as_values, compiled, format_plan, make_plan, parse_topology, topology_devices
from jdistill.plan.compiled import attention_path, needed_bytes
from tests.plan.libtpu import needs_libtpu
from tests.plan.program import KERNEL_TEXT, TEXT
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
    memory, state = plan.step.memory, plan.state
    assert memory.arguments >= state.parameters + state.optimizer + state.batch
    assert memory.arguments == pytest.approx(3 * parameters + state.batch, rel=0.02)  # and padding to tiles
    assert memory.temporary > 0.5 * parameters  # the gradients alone, in bfloat16 or float32
    assert memory.total == sum(memory) - memory.peak == plan.used < plan.topology.chip.memory
    assert plan.fits


@needs_libtpu
def test_gradients_are_reduced_once_over_all_chips(plan):
    parameters = sum(x.size * 4 for x in jax.tree.leaves(plan.job.params))
    [reduced] = [c for c in plan.step.collectives if c.kind == "all-reduce"]
    assert reduced.group == CHIPS
    assert reduced.bytes == pytest.approx(parameters, rel=0.001)
    assert reduced.in_loops == 0


@needs_libtpu
def test_work_of_the_compiled_step(plan):
    assert plan.step.flops == pytest.approx(plan.model_flops, rel=0.15)  # and what is no matrix product
    assert plan.roofline.compute == max(plan.step.flops, plan.model_flops) / plan.topology.chip.flops
    assert plan.roofline.memory == plan.traffic / plan.topology.chip.bandwidth
    assert plan.roofline.communication > 0
    assert plan.step.attention == "XLA (scores pass through memory)"
    assert plan.step.notes == ()


@pytest.fixture(scope="module")
def longer() -> Plan:
    """Documents long enough for an attention kernel, in two pieces whose gradients are added up."""
    job = tiny_job(rows=RowForm(16, 256, 1, 0), microbatches=2)
    return make_plan(job._replace(terms={"align": job.terms["align"]}), parse_topology("v5e:2x2"))


@needs_libtpu
def test_a_step_in_microbatches_with_attention_kernels(longer):
    parameters = sum(x.size * 4 for x in jax.tree.leaves(longer.job.params))
    reduced = sum(c.bytes for c in longer.step.collectives if c.kind == "all-reduce")
    assert reduced == pytest.approx(parameters, rel=0.001)
    # XLA counts the loop over microbatches once and no kernel, the formula counts all.
    assert longer.step.flops < longer.model_flops
    assert longer.roofline.compute == longer.model_flops / longer.topology.chip.flops


@needs_libtpu
def test_attention_kernels_are_named_with_what_they_take(longer):
    kernels, rest = longer.step.attention.split("; ")
    for part in ("fwd", "dq", "dkv"):
        assert f"splash_mha_{part}_" in kernels
    assert rest == "XLA for texts of 16 tokens (their scores pass through memory)"
    assert "  attention\n    Pallas kernels splash_mha_dkv" in format_plan(longer)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5p:2x2x2", "v6e:4x4"])
def test_other_generations(name):
    plan = make_plan(tiny_job(rows=RowForm(16, 256, 1, 0)), parse_topology(name))
    assert plan.fits
    assert plan.step.notes == ()
    parameters = sum(x.size * 4 for x in jax.tree.leaves(plan.job.params))
    reduced = sum(c.bytes for c in plan.step.collectives if c.kind in ("all-reduce", "reduce-scatter"))
    assert reduced == pytest.approx(parameters, rel=0.2)
    assert plan.step.attention.startswith("Pallas kernels splash_mha_dkv")


@needs_libtpu
def test_a_plan_as_text_and_as_values(plan):
    text = format_plan(plan, ["something"])
    for part in ("4 x TPU v5e", "compiled ahead of time", "optimizer state", "all-reduce x", "a lower bound", "fits: "):
        assert part in text
    assert "    something" in text
    values = json.loads(json.dumps(as_values(plan, ["something"])))
    assert values["memory"]["total"] == plan.step.memory.total
    assert values["memory"]["temporary"] == plan.step.memory.temporary
    assert values["collectives"][0]["bytes"] == plan.step.collectives[0].bytes
    assert values["roofline_estimate"]["bound"] == plan.roofline.bound
    assert values["largest_batch"]["rows"] == plan.largest.rows > plan.job.global_batch_size


@needs_libtpu
def test_rows_that_texts_share_are_reported(plan):
    folded = plan._replace(job=tiny_job(rows=tiny_job().rows.folded(32, 64)))
    assert "shared rows, per 16 rows: queries in 8 rows of 32 tokens and documents in 8 rows of 64" in format_plan(
        folded
    )
    values = as_values(folded)["shared_rows"]
    assert values == {"query": {"length": 32, "per_row": 0.5}, "document": {"length": 64, "per_row": 0.5}}
    assert as_values(plan)["shared_rows"] is None


class Refused:
    """A traced step that the compiler refuses, as it refuses what is too large, at once."""

    def lower(self):
        return self

    def compile(self, **options):
        raise jax.errors.JaxRuntimeError(OUT_OF_MEMORY)


@needs_libtpu
def test_a_step_that_does_not_fit_is_an_answer(monkeypatch):
    monkeypatch.setattr(compiled, "trace", lambda *arguments: Refused())
    plan = make_plan(tiny_job(global_batch_size=2**20), parse_topology("v5e:2x2"))
    assert plan.step.memory is None
    assert not plan.fits
    assert plan.used == 372.5 * 2**30
    text = format_plan(plan)
    assert "does not fit: 15.8 GiB per chip (needs 372.5 GiB). Set train.microbatches=" in text
    assert "needs 372.50 GiB, has 15.75 GiB of HBM" in text
    assert "interconnect unknown" in text
    assert as_values(plan)["collectives"] is None
    assert plan.largest.rows == pytest.approx(2**20 * 15.75 / 372.5, rel=0.05)


class Written:
    """A step whose compiler writes the program and a part of it that runs on another core, under these names."""

    def __init__(self, *names):
        self.names = names

    def compile(self, compiler_options):
        for name in self.names:
            (Path(compiler_options["xla_dump_to"]) / name).write_text(name)
        return self

    def as_text(self):
        return "as text"


def test_the_text_is_that_of_the_whole_program():
    whole = "module_0000.jit_train_step.cl_1.after_optimizations.txt"
    others = ("module_0002.extracted.cl_1.after_optimizations.txt", whole.replace(".txt", "-live-range.txt"))
    assert compiled._compiled(Written(others[0], whole, others[1]))[1] == whole
    assert compiled._compiled(Written(*others))[1] == "as text"
    cpu = "module_0001.jit_train_step.cpu_after_optimizations.txt"
    assert compiled._compiled(Written(cpu))[1] == cpu


def test_kernels_are_found_where_their_metadata_takes_several_lines():
    assert attention_path(KERNEL_TEXT, [256]) == "Pallas kernels splash_mha_fwd"
    assert attention_path(KERNEL_TEXT, [32, 256]).endswith(
        "; XLA for texts of 32 tokens (their scores pass through memory)"
    )
    assert attention_path(KERNEL_TEXT.replace("splash_mha_fwd", "sort_keys"), [256]).startswith("XLA")
    assert attention_path(TEXT, [256]) == "XLA (scores pass through memory)"


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
