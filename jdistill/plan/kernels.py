"""Pallas kernels of a step: which ones it uses, their FLOPs, and which attention uses.

The TPU compiler estimates no cycles for Pallas kernels, but the trace contains their programs.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr

from jdistill.backend import Platform
from jdistill.plan.hlo import Instruction, Program
from jdistill.plan.traced import KERNEL, inner_programs, turns_of, work_of


class Kernel(NamedTuple):
    """One kernel at one size, identified by properties found in both trace and compiled program."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its outputs on one device, scratch outputs included."""


def traced_kernels(program: ClosedJaxpr, platform: Platform) -> dict[Kernel, float]:
    """The kernels of a traced step on the platform -> matrix-product FLOPs of one run, on one device."""
    found: dict[Kernel, float] = {}

    def visit(jaxpr: Jaxpr) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == KERNEL:
                shapes = tuple(tuple(getattr(var.aval, "shape", ())) for var in equation.outvars)
                once = sum(work_of(inner, platform).flops for inner in inner_programs(equation, platform))
                name = equation.params["name"] or equation.params["jaxpr"].debug_info.func_name
                found[Kernel(name, shapes)] = turns_of(equation) * once
            else:
                for inner in inner_programs(equation, platform):
                    visit(inner)

    visit(program.jaxpr)
    return found


def compiled_kernels(program: Program) -> set[Kernel]:
    """The kernels of a compiled step."""
    every = (kernel_of(i) for computation in program.computations.values() for i in computation.values())
    return {kernel for kernel in every if kernel is not None}


def kernel_of(instruction: Instruction) -> Kernel | None:
    """The kernel that an instruction runs; None if it runs none."""
    if 'custom_call_target="tpu_custom_call"' not in instruction.text:
        return None
    return Kernel(instruction.name.partition(".")[0], tuple(buffer.shape for buffer in instruction.results))


def attention_path(kernels: Iterable[Kernel], lengths: Iterable[int]) -> str:
    """How a step computes attention: the names of its kernels, or XLA.

    Args:
      kernels: all kernels of the step.
      lengths: lengths of the encoded rows, in tokens.
    """
    attend = [kernel for kernel in kernels if re.search("attention|flash|splash", kernel.name)]
    served = {shape[-2] for kernel in attend for shape in kernel.shapes if len(shape) == 4}  # [n, heads, length, width]
    rest = sorted(set(lengths) - served)
    if not attend:
        return "XLA (scores pass through memory)"
    names = f"Pallas kernels {', '.join(sorted({kernel.name for kernel in attend}))}"
    if not rest:
        return names
    return f"{names}; XLA for texts of {' and '.join(map(str, rest))} tokens (their scores pass through memory)"
