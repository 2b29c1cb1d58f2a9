"""Compiles the step for absent chips and collects what XLA reports: memory, FLOPs, bytes, collectives, kernels."""

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jdistill.plan.chips import GIB
from jdistill.plan.collectives import Collective, find_collectives
from jdistill.plan.job import Job, trace

_KERNEL = re.compile(
    r'^\s+(?:ROOT )?%?([A-Za-z_][\w\-]*)[\w.\-]* = (.*?)custom_call_target="tpu_custom_call"', re.MULTILINE
)


class Memory(NamedTuple):
    """Bytes per device, from `compiled.memory_analysis()`."""

    arguments: int
    """Parameters, optimizer state and batch, as sharded and with tile padding."""
    output: int
    """What the step returns in memory of its own; the new state takes the place of the old."""
    temporary: int
    """Gradients, activations and all other temporary memory."""
    program: int
    """The program's code."""
    peak: int
    """The most that is in use at once by XLA's count, which on TPUs includes fast memory."""

    @property
    def total(self) -> int:
        """HBM that the device must have: all but `peak`."""
        return self.arguments + self.output + self.temporary + self.program


class CompiledStep(NamedTuple):
    """What XLA reports of one step, per device; if it does not fit, only `needed`."""

    memory: Memory | None = None
    """None if the program does not fit."""
    needed: int | None = None
    """Bytes needed, if the program does not fit and the compiler says so."""
    flops: float | None = None
    """From `compiled.cost_analysis()`: loop bodies counted once, Pallas kernels left out."""
    bytes_accessed: float | None = None
    """From `compiled.cost_analysis()`, likewise; values that stay in fast memory are included."""
    collectives: tuple[Collective, ...] = ()
    attention: str | None = None
    """Names of the attention kernels, or XLA."""
    notes: tuple[str, ...] = ()


def compile_step(job: Job, mesh: Mesh, rows: int) -> CompiledStep:
    """Compile the step for a batch of `rows` rows; not fitting into memory is a result, not an error.

    Raises:
      UserError: if the rows do not divide over the mesh, or a term does not match the data.
    """
    lowered = trace(job, mesh, rows).lower()
    try:
        program, text = _compiled(lowered)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return CompiledStep(needed=needed_bytes(str(error)))
    cost = program.cost_analysis()
    collectives, unknown = find_collectives(text, mesh.size)
    looped = f"{unknown} loops with collectives have an unknown trip count, and are counted once"
    return CompiledStep(
        memory=memory_of(program),
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        collectives=tuple(collectives),
        attention=attention_path(text, job.rows.lengths),
        notes=(looped,) if unknown else (),
    )


def _compiled(lowered: Any) -> tuple[Any, str]:
    """The compiled program and its text.

    The compiler writes the text itself. `as_text` sends the program through jaxlib, whose XLA is not that of libtpu: it
    rejects some programs ("async-update instruction should have 1 operands but sees 3", jaxlib 0.10.2, libtpu 0.0.51).
    """
    with TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        program = lowered.compile(compiler_options=options)
        # "jit_" leaves out the parts that are compiled for another core. No file at all if it was in JAX's cache.
        written = list(Path(folder).glob("*.jit_*after_optimizations.txt"))
        return program, written[0].read_text(encoding="utf-8") if len(written) == 1 else program.as_text()


def memory_of(program: Any) -> Memory:
    """Bytes per device that a compiled program takes, by XLA's own account."""
    found = program.memory_analysis()
    return Memory(
        arguments=found.argument_size_in_bytes,
        # The new state takes the memory of the old, which is donated.
        output=found.output_size_in_bytes - found.alias_size_in_bytes,
        temporary=found.temp_size_in_bytes,
        program=found.generated_code_size_in_bytes,
        peak=found.peak_memory_in_bytes,
    )


def needed_bytes(message: str) -> int | None:
    """Bytes that a program would need, parsed from the compiler's out-of-memory message."""
    # The compiler words this in several ways.
    forms = (r"Used ([\d.]+)([KMGT]) of", r"required for [\w ]+\(([\d.]+)([KMGT])\)", r"([\d.]+)([KMGT])\) exceeds")
    for form in forms:
        found = re.search(form, message)
        if found is not None:
            return int(float(found[1]) * GIB * {"K": 2**-20, "M": 2**-10, "G": 1, "T": 2**10}[found[2]])
    return None


def attention_path(text: str, lengths: Iterable[int]) -> str:
    """How a compiled program computes attention: the names of its Pallas kernels, or XLA.

    Args:
      text: the program.
      lengths: lengths of the encoded rows, in tokens.
    """
    kernels = [found.groups() for found in _KERNEL.finditer(text) if re.search("attention|flash|splash", found[1])]
    if not kernels:
        return "XLA (scores pass through memory)"
    names = f"Pallas kernels {', '.join(sorted({name for name, _ in kernels}))}"
    # A kernel's outputs of shape [n, heads, length, width] tell the length that it serves.
    served = {int(length) for _, result in kernels for length in re.findall(r"\[\d+,\d+,(\d+),\d+\]", result)}
    rest = sorted(set(lengths) - served)
    if not rest:
        return names
    return f"{names}; XLA for texts of {' and '.join(map(str, rest))} tokens (their scores pass through memory)"
