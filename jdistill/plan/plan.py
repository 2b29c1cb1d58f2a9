"""A plan of one train step on one slice of chips."""

import time
from math import prod
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from jdistill.config import UserError
from jdistill.parallel import make_mesh
from jdistill.parallel.mesh import AXES
from jdistill.plan.compiled import CompiledStep, compile_step
from jdistill.plan.flops import model_flops
from jdistill.plan.job import Job, batch_bytes, state_form, trace
from jdistill.plan.largest import Largest, estimate_largest, search_largest
from jdistill.plan.roofline import Roofline, roofline
from jdistill.plan.topology import Topology, topology_devices


class State(NamedTuple):
    """Bytes per chip of what every step needs, whatever the compiler makes of it; from shapes and shardings."""

    parameters: int
    """Parameters of student and losses."""
    optimizer: int
    """Optimizer state and the moving average of parameters."""
    trained: int
    """Trained parameters, and as much again for their gradients."""
    batch: int


class Plan(NamedTuple):
    """Resources of one step. Nothing was run."""

    job: Job
    topology: Topology
    seconds_to_plan: float
    state: State
    step: CompiledStep | None
    """None for chips that nothing can be compiled for here."""
    model_flops: float
    """Per chip, by formula."""
    traffic: int
    """Bytes to and from HBM per chip, at the least."""
    roofline: Roofline
    largest: Largest | None

    @property
    def fits(self) -> bool | None:
        """Whether the step fits into the memory of a chip; None if that is not known without compiling it."""
        capacity = self.topology.chip.memory
        if self.step is None:
            return False if sum(self.state) > capacity else None
        return self.step.memory is not None and self.step.memory.total <= capacity

    @property
    def used(self) -> int | None:
        """Bytes per chip that the compiled step takes, or would need."""
        if self.step is None:
            return None
        return self.step.needed if self.step.memory is None else self.step.memory.total


def make_plan(job: Job, topology: Topology, *, search: bool = False) -> Plan:
    """Plan a step: compile it for TPUs; for other chips, only add up what is known without a compiler.

    Args:
      job: the step.
      topology: the chips.
      search: find the largest batch by compiling several batch sizes instead of estimating it; slow.

    Raises:
      UserError: if the batch does not divide over the chips, or the TPU compiler is missing.
    """
    _check_divides(job, topology)
    began, rows, chips = time.perf_counter(), job.global_batch_size, topology.chips
    mesh: Any
    if topology.chip.platform == "tpu":
        mesh = make_mesh(topology_devices(topology.name), fsdp=job.fsdp)
        step = compile_step(job, mesh, rows)
    else:
        # Shapes and shardings can be traced without devices.
        mesh = AbstractMesh((chips // job.fsdp, job.fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto))
        trace(job, mesh, rows)  # finds terms that do not match the data
        step = None
    state, flops = state_bytes(job, mesh), model_flops(job, rows) / chips
    traffic = least_traffic(state, step.memory.temporary if step is not None and step.memory is not None else 0)
    plan = Plan(
        job=job,
        topology=topology,
        seconds_to_plan=0.0,
        state=state,
        step=step,
        model_flops=flops,
        traffic=traffic,
        roofline=roofline(
            topology,
            # Each count leaves something out, so the larger one is the better lower bound.
            flops=max(flops, (step and step.flops) or 0.0),
            traffic=traffic,
            collectives=() if step is None else step.collectives,
            dtype=job.student.config.dtype,
        ),
        largest=None,
    )
    largest = _largest(plan, mesh, search=search)
    return plan._replace(largest=largest, seconds_to_plan=time.perf_counter() - began)


def state_bytes(job: Job, mesh: Mesh) -> State:
    """Bytes per chip of parameters, optimizer state, batch and gradients, as sharded."""
    state = state_form(job, mesh)
    return State(
        parameters=_on_one_chip(state.params),
        optimizer=_on_one_chip((state.opt_state, state.ema)),
        trained=_on_one_chip(job.groups.split(state.params)[0]),
        batch=batch_bytes(job, job.global_batch_size, mesh.size) // mesh.size,
    )


def _on_one_chip(tree: Any) -> int:
    return sum(prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def least_traffic(state: State, temporary: int) -> int:
    """Bytes that pass between a chip and its HBM at the least.

    Trained parameters and optimizer state are read and written, the batch is read, and what lies in temporary memory
    has been written there to be read. XLA's own `bytes accessed` is no lower bound: it includes fast memory.
    """
    return 2 * (state.trained + state.optimizer + temporary) + state.batch


def _largest(plan: Plan, mesh: Mesh, *, search: bool) -> Largest | None:
    job, capacity, used = plan.job, plan.topology.chip.memory, plan.used
    rows, unit = job.global_batch_size, job.unit(plan.topology.chips)
    fixed = plan.state.parameters + plan.state.optimizer + plan.state.trained
    estimate = None if used is None else estimate_largest(rows, used, fixed=fixed, capacity=capacity, unit=unit)
    if not search or plan.step is None:
        return estimate

    def compiled(other: int) -> int | None:
        memory = compile_step(job, mesh, other).memory
        return None if memory is None else memory.total

    first = rows // 2 // unit * unit if estimate is None else estimate.rows
    return search_largest(compiled, rows, used if plan.fits else None, first, capacity=capacity, unit=unit)


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
