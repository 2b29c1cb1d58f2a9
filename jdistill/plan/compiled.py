"""The step compiled for chips that are not here: what the compiler says of memory, work and collectives."""

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
    """Bytes on one chip."""

    parameters: int
    """Of student and losses, as they are split over the chips."""
    optimizer: int
    """State of the optimizer."""
    batch: int
    """The batch, and the padding of everything so far to the chip's tiles."""
    temporary: int
    """Gradients, activations and everything else that lives within a step."""
    program: int
    """The program itself."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class CompiledStep(NamedTuple):
    """One step, compiled for one size of batch."""

    rows: int
    traced: ClosedJaxpr
    work: Work
    """As traced, all chips together."""
    seconds: float
    """That tracing and compiling took."""
    memory: Memory | None
    """None where the program does not fit."""
    needed: int | None = None
    """Bytes that the compiler said it would need, where it does not fit."""
    text: str | None = None
    """The scheduled program; None where it does not fit or is not to be had."""
    flops: float | None = None
    """The compiler's count on one chip; it counts the body of a loop once."""
    bytes_accessed: float | None = None
    """The compiler's count on one chip, fast memory included; it counts the body of a loop once."""
    missing: tuple[str, ...] = ()
    """What this compiler could not say, one sentence each."""


def compile_step(job: Job, mesh: Mesh, rows: int) -> CompiledStep:
    """Compile the step for a batch of so many rows; that it does not fit is an answer, not an error.

    Raises:
      UserError: if the rows do not divide over the mesh, or a term does not fit the data.
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
    """Bytes that a program would need, from the compiler's message that it does not fit."""
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
    """Bytes of parameters and of optimizer state on one chip, as they are split."""
    state = state_form(job, mesh)
    return _on_one_chip(state.params), _on_one_chip(state.opt_state)


def _on_one_chip(tree: Any) -> int:
    return sum(prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _first(analysis: Any) -> Any:
    return analysis[0] if isinstance(analysis, list) else analysis


def _quietly(get: Callable[[], str | None]) -> Callable[[], str | None]:
    """The same without what the library writes to standard error, such as the stack of an error that is handled."""

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
    """What the compiler gives, or a note that it gave nothing: some programs of some chips are beyond its tools."""
    try:
        return get()
    except jax.errors.JaxRuntimeError as error:
        missing.append(f"{what}: {str(error).splitlines()[0][:120]}")
        return None
