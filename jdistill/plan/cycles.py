"""Step time by the compiler's cycle estimates, and HBM traffic of the scheduled program.

The TPU compiler annotates most instructions with estimated cycles, from the cost model that it schedules with. Loops
are multiplied by their iterations. Ops without a cycle estimate, e.g. Pallas kernels, are counted by their bytes or
matrix products at the published rates.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from jdistill.plan.chips import Chip
from jdistill.plan.collectives import KINDS
from jdistill.plan.hlo import Buffer, Instruction, Program, Runs, executed, fused
from jdistill.plan.kernels import Kernel, kernel_of

SENTINEL = 2**31
"""Cycle counts from here on mean "not estimated"."""

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("copy-done", "slice-done", "async-done", "async-update", "async-start", "partition-id", "replica-id", "iota"),
    *KINDS,
    *(f"{kind}-start" for kind in KINDS),
    *(f"{kind}-done" for kind in KINDS),
}
"""Instructions without HBM traffic of their own: no-ops, calls whose bodies are counted, and collectives."""

_NO_WORK = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "AsyncCollective")


class Cycles(NamedTuple):
    """The compiler's estimate of one step on one chip, without collectives."""

    cycles: int
    seconds: float
    """The cycles at the chip's clock, plus a lower bound, at published rates, for ops without a cycle estimate."""
    without: float
    """Fraction of `seconds` from ops without a cycle estimate, in [0, 1]."""


def find_cycles(program: Program, runs: Runs, chip: Chip, kernels: Mapping[Kernel, float]) -> Cycles:
    """The cycles of a step.

    Args:
      program: the step.
      runs: how often each of its computations runs.
      chip: the chip.
      kernels: kernel -> FLOPs of one run.

    Raises:
      ValueError: if the chip's clock is unknown.
    """
    if chip.clock is None:
        raise ValueError(f"the clock of {chip.name} is not known")
    cycles, rest = 0, 0.0
    for instruction, computation, times in executed(program, runs):
        noted = _CYCLES.search(instruction.text)
        if noted is not None and int(noted[1]) < SENTINEL:
            cycles += times * int(noted[1])
        elif not instruction.opcode.endswith("-start"):  # asynchronous transfers overlap with computation
            kernel = kernel_of(instruction)
            products = kernels.get(kernel, 0.0) if kernel is not None else 0.0
            moved = traffic_of(program, instruction, computation)
            rest += times * max(moved / chip.bandwidth, products / chip.flops)
    total = cycles / chip.clock + rest
    return Cycles(cycles, total, rest / total if total else 0.0)


def traffic(program: Program, runs: Runs) -> int:
    """Bytes that one step reads from and writes to HBM: operands and results of all instructions that are in HBM."""
    return sum(
        times * traffic_of(program, instruction, computation)
        for instruction, computation, times in executed(program, runs)
    )


def traffic_of(program: Program, instruction: Instruction, computation: dict[str, Instruction]) -> int:
    """HBM bytes read and written by one run of an instruction."""
    if instruction.opcode in _FREE or any(f'target="{name}' in instruction.text for name in _NO_WORK):
        return 0
    operands = [computation[name].results for name in instruction.operands if name in computation]
    if instruction.opcode in ("copy-start", "slice-start"):
        source = operands[0][0].in_hbm if operands and operands[0] else True
        target = instruction.results[1 if instruction.opcode == "slice-start" else 0]
        return target.padded * (int(source) + int(target.in_hbm))
    inside = fused(program, instruction)
    if not inside:
        return _alone(instruction, operands)
    return _read(inside, operands) + _written(inside, instruction.results)


def _alone(instruction: Instruction, operands: list[tuple[Buffer, ...]]) -> int:
    result = sum(buffer.padded for buffer in instruction.results if buffer.in_hbm)
    if instruction.opcode in _PARTIAL:
        return 2 * result
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _in_hbm(operands[1]) if len(operands) > 1 else result
    return result + sum(_in_hbm(buffers) for buffers in operands)


def _in_hbm(buffers: tuple[Buffer, ...]) -> int:
    return sum(buffer.padded for buffer in buffers if buffer.in_hbm)


_PARTIAL = ("dynamic-slice", "slice", "gather")
"""Instructions that read only as much of their first operand as they return."""


def _read(inside: dict[str, Instruction], operands: list[tuple[Buffer, ...]]) -> int:
    """Bytes that a fusion reads; of operands that it only slices, just the slices."""
    users: dict[str, list[tuple[Instruction, int]]] = {}
    for instruction in inside.values():
        for place, name in enumerate(instruction.operands):
            users.setdefault(name, []).append((instruction, place))
    total = 0
    for instruction in inside.values():
        if instruction.opcode != "parameter":
            continue
        number = int(instruction.operands[0]) if instruction.operands else 0
        buffers = operands[number] if number < len(operands) else ()
        whole = _in_hbm(buffers)
        uses = users.get(instruction.name, [])
        if whole and uses and all(_partial(user, place) for user, place in uses):
            whole = min(whole, sum(_part(user, inside) for user, _ in uses))
        total += whole
    return total


def _partial(user: Instruction, place: int) -> bool:
    return place == 0 and user.opcode in (*_PARTIAL, "dynamic-update-slice", "scatter")


def _part(user: Instruction, inside: dict[str, Instruction]) -> int:
    if user.opcode in _PARTIAL:
        return sum(buffer.padded for buffer in user.results)
    update = inside.get(user.operands[-1 if user.opcode == "scatter" else 1]) if len(user.operands) > 1 else None
    return sum(buffer.padded for buffer in update.results) if update is not None else 0


def _written(inside: dict[str, Instruction], results: tuple[Buffer, ...]) -> int:
    """Bytes that a fusion writes; of a result that it updates in place, just the update."""
    root = next((instruction for instruction in inside.values() if instruction.is_root), None)
    if root is not None and root.opcode in ("dynamic-update-slice", "scatter") and results and results[0].in_hbm:
        return min(results[0].padded, _part(root, inside))
    return _in_hbm(results)
