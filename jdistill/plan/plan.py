"""A plan of one train step on one slice of chips, compiled or estimated."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import AbstractMesh, AxisType

from jdistill.config import UserError
from jdistill.parallel import make_mesh
from jdistill.parallel.mesh import AXES
from jdistill.plan.collectives import Collective, find_collectives
from jdistill.plan.compiled import CompiledStep, Memory, compile_step, state_bytes
from jdistill.plan.cycles import Cycles, find_cycles, traffic
from jdistill.plan.estimate import Largest, Roofline, largest_batch, roofline
from jdistill.plan.hlo import count_runs, parse_hlo
from jdistill.plan.job import Job, batch_bytes, model_flops, trace
from jdistill.plan.kernels import attention_path, compiled_kernels, traced_kernels
from jdistill.plan.topology import Topology, topology_devices
from jdistill.plan.traced import find_work, peak_bytes
from jdistill.plan.transfers import traced_collectives
from jdistill.plan.verdict import verdict

COMPILED = "the scheduled program"
TRACED = "the traced step, as if fused ideally"


class Plan(NamedTuple):
    """Resources of one step. Nothing was run; everything but memory and counts is an estimate."""

    job: Job
    topology: Topology
    compiled: bool
    """Whether the step was compiled for the chips, or only traced."""
    seconds_to_plan: float
    memory: Memory | None
    """Per chip; None if it does not fit."""
    needed: int | None
    """Bytes per chip needed according to the compiler, if it does not fit."""
    model_flops: float
    """Per chip, by formula."""
    program_flops: float
    """Per chip, counted in the traced step, including recomputation and the loss."""
    compiler_flops: float | None
    compiler_bytes: float | None
    traffic: float
    """Bytes per chip to and from HBM."""
    counted_in: str
    """Where traffic and collectives were counted."""
    collectives: Sequence[Collective]
    roofline: Roofline
    cycles: Cycles | None
    attention: str
    largest: Largest | None
    verdict: Sequence[str]
    notes: Sequence[str]
    """Missing information, and how things were counted."""

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory of a chip."""
        return self.memory is not None and self.memory.total <= self.topology.chip.memory

    @property
    def cycle_seconds(self) -> float | None:
        """Seconds of a step by the compiler's cycles, plus collectives without overlap."""
        return None if self.cycles is None else self.cycles.seconds + self.roofline.communication


def make_plan(job: Job, topology: Topology, *, search: bool = False) -> Plan:
    """Plan a step: compile it for TPUs, or estimate it from its trace for other chips.

    Args:
      job: the step.
      topology: the chips.
      search: find the largest batch by compiling several batch sizes instead of from the trace; slow.

    Raises:
      UserError: if the batch does not divide over the chips, or the TPU compiler is missing.
    """
    _check_divides(job, topology)
    if topology.chip.platform == "tpu":
        return _compiled(job, topology, search=search)
    return _traced(job, topology)


def _check_divides(job: Job, topology: Topology) -> None:
    unit, rows = job.unit(topology.chips), job.global_batch_size
    if rows % unit:
        near = " or ".join(f"{n:,}" for n in (rows - rows % unit, rows + unit - rows % unit) if n)
        raise UserError(
            f"train.global_batch_size={rows}: does not divide over the {topology.chips} chips of {topology.name}"
            + (f" in {job.microbatches} microbatches" if job.microbatches > 1 else "")
            + (", rows two by two" if job.rows.multiple == 2 else "")
            + f". Use {near} rows, or another topology."
        )
    if topology.chips % job.fsdp:
        raise UserError(
            f"train.fsdp={job.fsdp}: the {topology.chips} chips of {topology.name} do not divide into such groups."
        )


def _compiled(job: Job, topology: Topology, *, search: bool) -> Plan:
    mesh = make_mesh(topology_devices(topology.name), fsdp=job.fsdp)
    began, rows, chips = time.perf_counter(), job.global_batch_size, topology.chips
    step = compile_step(job, mesh, rows)
    largest = _search(job, topology, mesh, step, by_compiling=search)
    notes, kernels = list(step.missing), traced_kernels(step.traced, "tpu")
    if step.text is not None:
        program = parse_hlo(step.text)
        runs = count_runs(program)
        moved: float = traffic(program, runs)
        collectives = find_collectives(program, runs, chips)
        cycles = find_cycles(program, runs, topology.chip, kernels)
        path = attention_path(compiled_kernels(program), job.rows.lengths)
        notes += [f"loop {name}: unknown trip count, counted once" for name in runs.unknown]
    else:
        moved, cycles = step.work.bytes / chips, None
        path = f"{attention_path(kernels, job.rows.lengths)}, as traced"
        collectives = traced_collectives(step.traced, "tpu")
    estimate = _roofline(job, topology, step.work.flops / chips, moved, collectives)
    if cycles is not None and cycles.seconds < estimate.compute:
        cycles = None
        notes.append("the compiler's cycles are ignored: they are fewer than the arithmetic takes at peak rate")
    used = None if step.memory is None else step.memory.total
    state = sum(state_bytes(job, mesh))
    return Plan(
        job=job,
        topology=topology,
        compiled=True,
        seconds_to_plan=time.perf_counter() - began,
        memory=step.memory,
        needed=step.needed,
        model_flops=model_flops(job, rows) / chips,
        program_flops=step.work.flops / chips,
        compiler_flops=step.flops,
        compiler_bytes=step.bytes_accessed,
        traffic=moved,
        counted_in=TRACED if step.text is None else COMPILED,
        collectives=collectives,
        roofline=estimate,
        cycles=cycles,
        attention=path,
        largest=largest,
        verdict=verdict(job, topology, used=used, needed=step.needed, state=state, estimate=estimate, largest=largest),
        notes=notes,
    )


def _search(job: Job, topology: Topology, mesh: Any, step: CompiledStep, *, by_compiling: bool) -> Largest:
    used = None if step.memory is None else step.memory.total
    rows, peak = job.global_batch_size, peak_bytes(step.traced, "tpu")
    state, example = (
        sum(state_bytes(job, mesh)),
        batch_bytes(job, job.global_batch_size, topology.chips) // topology.chips,
    )

    def compiled(fewer: int) -> int | None:
        memory = compile_step(job, mesh, fewer).memory
        return None if memory is None else memory.total

    def scaled(fewer: int) -> int:
        # The compiler's temporary memory is roughly a constant fraction of the trace's peak at every batch size.
        temporary = (used or step.needed or peak) - state - example
        part = peak_bytes(trace(job, mesh, fewer).jaxpr, "tpu") / peak
        return int(state + example * fewer / rows + temporary * part)

    return largest_batch(
        compiled if by_compiling else scaled,
        rows,
        unit=job.unit(topology.chips),
        capacity=topology.chip.memory,
        first=used,
        needed=step.needed,
        tried_by="both compiled" if by_compiling else "one compiled, the other traced and scaled",
    )


def _traced(job: Job, topology: Topology) -> Plan:
    """Plan without a compiler, from work and memory of the traced step."""
    began, chips, rows = time.perf_counter(), topology.chips, job.global_batch_size
    mesh: Any = AbstractMesh((chips // job.fsdp, job.fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto))
    step = trace(job, mesh, rows)
    platform = topology.chip.platform
    work, (parameters, optimizer) = find_work(step.jaxpr, platform), state_bytes(job, mesh)
    memory = Memory(parameters, optimizer, batch_bytes(job, rows, chips) // chips, peak_bytes(step.jaxpr, platform), 0)
    collectives = traced_collectives(step.jaxpr, platform)
    estimate = _roofline(job, topology, work.flops / chips, work.bytes / chips, collectives)
    state, used = parameters + optimizer, memory.total
    largest = largest_batch(
        lambda fewer: memory.total - memory.temporary + peak_bytes(trace(job, mesh, fewer).jaxpr, platform),
        rows,
        unit=job.unit(chips),
        capacity=topology.chip.memory,
        first=used,
        needed=None,
        tried_by="both traced",
    )
    return Plan(
        job=job,
        topology=topology,
        compiled=False,
        seconds_to_plan=time.perf_counter() - began,
        memory=memory,
        needed=None,
        model_flops=model_flops(job, rows) / chips,
        program_flops=work.flops / chips,
        compiler_flops=None,
        compiler_bytes=None,
        traffic=work.bytes / chips,
        counted_in=TRACED,
        collectives=collectives,
        roofline=estimate,
        cycles=None,
        attention="chosen when the step is compiled on the machine",
        largest=largest,
        verdict=verdict(
            job,
            topology,
            used=used,
            needed=None,
            state=state,
            estimate=estimate,
            largest=largest,
            compiled=False,
        ),
        notes=["not compiled: temporary memory is an upper bound, from the traced step without fusion"],
    )


def _roofline(job: Job, topology: Topology, flops: float, moved: float, collectives: Sequence[Collective]) -> Roofline:
    dtype = job.student.config.dtype
    return roofline(topology, flops=flops, traffic=moved, collectives=collectives, dtype=dtype)
