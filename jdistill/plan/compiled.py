"""Compiles the step for absent chips and collects what the compiler reports about memory and work."""

import os
import re
import sys
import time
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh

from jdistill.plan.chips import GIB
from jdistill.plan.job import Job, state_form, trace
from jdistill.plan.traced import Work, find_work


class Memory(NamedTuple):
    """Bytes per chip."""

    parameters: int
    """Parameters of student and losses, as sharded."""
    optimizer: int
    """Optimizer state and the moving average of parameters, as sharded."""
    batch: int
    """The batch, plus tile padding of batch, parameters and optimizer state."""
    temporary: int
    """Gradients, activations and all other temporary memory."""
    program: int
    """The program's code."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


class CompiledStep(NamedTuple):
    """One step, compiled for one batch size."""

    rows: int
    traced: ClosedJaxpr
    work: Work
    """Counted in the trace, all chips together."""
    seconds: float
    """Time for tracing and compiling."""
    memory: Memory | None
    """None if the program does not fit."""
    needed: int | None = None
    """Bytes needed according to the compiler, if the program does not fit."""
    text: str | None = None
    """The scheduled program; None if it does not fit or is not available."""
    flops: float | None = None
    """The compiler's count per chip, loop bodies counted once."""
    bytes_accessed: float | None = None
    """The compiler's count per chip, including fast memory, loop bodies counted once."""
    missing: tuple[str, ...] = ()
    """What the compiler could not report, one sentence each."""


def compile_step(job: Job, mesh: Mesh, rows: int) -> CompiledStep:
    """Compile the step for a batch of `rows` rows; not fitting into memory is a result, not an error.

    Raises:
      UserError: if the rows do not divide over the mesh, or a term does not match the data.
    """
    began = time.perf_counter()
    traced = trace(job, mesh, rows)
    work = find_work(traced.jaxpr, "tpu")
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return CompiledStep(rows, traced.jaxpr, work, time.perf_counter() - began, None, needed_bytes(str(error)))
    missing: list[str] = []
    cost = _tried(lambda: _first(program.cost_analysis()), "the compiler's own count of FLOPs and bytes", missing) or {}
    text = _tried(
        _quietly(program.as_text), "the text of the program, and with it collectives, cycles and traffic", missing
    )
    return CompiledStep(
        rows,
        traced.jaxpr,
        work,
        time.perf_counter() - began,
        _memory(job, mesh, program),
        None,
        text,
        cost.get("flops"),
        cost.get("bytes accessed"),
        tuple(missing),
    )


def needed_bytes(message: str) -> int | None:
    """Bytes that a program would need, parsed from the compiler's out-of-memory message."""
    forms = (r"Used ([\d.]+)([KMGT]) of", r"required for [\w ]+\(([\d.]+)([KMGT])\)", r"([\d.]+)([KMGT])\) exceeds")
    for form in forms:
        found = re.search(form, message)
        if found is not None:
            return int(float(found[1]) * GIB * {"K": 2**-20, "M": 2**-10, "G": 1, "T": 2**10}[found[2]])
    return None


def _memory(job: Job, mesh: Mesh, program: Any) -> Memory:
    analysis = program.memory_analysis()
    parameters, optimizer = state_bytes(job, mesh)
    arguments = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(
        parameters=parameters,
        optimizer=optimizer,
        batch=max(0, arguments - parameters - optimizer),
        temporary=analysis.temp_size_in_bytes,
        program=analysis.generated_code_size_in_bytes,
    )


def state_bytes(job: Job, mesh: Mesh) -> tuple[int, int]:
    """Bytes per chip of parameters and of optimizer state, as sharded."""
    state = state_form(job, mesh)
    return _on_one_chip(state.params), _on_one_chip((state.opt_state, state.ema))


def _on_one_chip(tree: Any) -> int:
    return sum(prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _first(analysis: Any) -> Any:
    return analysis[0] if isinstance(analysis, list) else analysis


def _quietly(get: Callable[[], str | None]) -> Callable[[], str | None]:
    """`get` with standard error silenced, such as stack traces of handled errors."""

    def quiet() -> str | None:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            return get()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)

    return quiet


def _tried(get: Any, what: str, missing: list[str]) -> Any:
    """Call `get`; on failure, which happens for some programs on some chips, record it in `missing`."""
    try:
        return get()
    except jax.errors.JaxRuntimeError as error:
        missing.append(f"{what}: {str(error).splitlines()[0][:120]}")
        return None
