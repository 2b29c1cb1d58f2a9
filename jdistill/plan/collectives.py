"""The collectives of one step by kind, read from the compiled program."""

import re
from typing import NamedTuple

from jdistill.plan.chips import Chip
from jdistill.plan.hlo import Instruction, Program, Runs, fused
from jdistill.plan.topology import Topology

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


class Collective(NamedTuple):
    """All collectives of one kind and group size."""

    kind: str
    group: int
    """Chips per group."""
    count: int
    """Runs per step, loop iterations included."""
    bytes: int
    """Total bytes of the full values over all runs: outputs, or inputs for reduce-scatter."""
    in_loops: int
    """Number of runs inside loops."""


def find_collectives(program: Program, runs: Runs, chips: int) -> list[Collective]:
    """The collectives of a step, largest first.

    A collective that the compiler spreads over several fusions, to overlap it with their work, is counted once.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for name, times in runs.times.items():
        for instruction in program.computations.get(name, {}).values():
            inside = fused(program, instruction)
            for part in (instruction, *inside.values()):
                kind = part.opcode.removesuffix("-start")
                if kind not in KINDS or _continues(part):
                    continue
                entry = found.setdefault((kind, group_size(part.text, chips)), [0, 0, 0])
                entry[0] += times
                entry[1] += times * _bytes(part, kind, chips)
                entry[2] += 0 if name == program.entry else times
    rows = [Collective(kind, group, *numbers) for (kind, group), numbers in found.items()]
    return sorted(rows, key=lambda row: -row.bytes)


def group_size(text: str, chips: int) -> int:
    """Chips per group, from XLA's notations for groups; all chips if there is none."""
    groups = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    if groups is not None:
        return len(groups[1].split(","))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
    if iota is not None:
        return int(iota[2])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh is not None:
        sides = {name: int(side) for name, side in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        size = 1
        for axis in re.findall(r"'([^']+)'", mesh[2]):
            size *= sides.get(axis, 1)
        return size
    return chips


def seconds(collective: Collective, topology: Topology) -> float:
    """Estimated time at the links' published rate, without overlap.

    A ring over `k` chips moves `(k - 1) / k` of the value through each chip for all-gather and reduce-scatter, and
    twice that for all-reduce. A collective over the entire slice uses the links of all axes, otherwise those of one.
    """
    chip, k = topology.chip, collective.group
    if k < 2:
        return 0.0
    if collective.kind == "collective-permute":
        return collective.bytes / chip.link
    passes = 2 if collective.kind == "all-reduce" else 1
    rate = slice_rate(topology) if k == topology.chips else max(axis_rates(topology), default=chip.link)
    return passes * collective.bytes * (k - 1) / k / rate


def axis_rates(topology: Topology) -> list[float]:
    """Bytes/s of a ring along each axis of the slice, in both directions if the axis wraps around."""
    chip = topology.chip
    if chip.platform != "tpu":
        return [chip.link if topology.chips <= _SERVER else _NETWORK]
    return [chip.link * (2 if _closes(chip, topology.shape, side) else 1) for side in topology.shape if side > 1]


def slice_rate(topology: Topology) -> float:
    """Bytes/s per chip of a collective that uses all axes of the slice."""
    return sum(axis_rates(topology)) or topology.chip.link


_SERVER = 8
"""CUDA chips per server, connected by NVLink."""
_NETWORK = 50e9
"""Bytes/s per chip between servers: one 400 Gbit/s port each."""


def _closes(chip: Chip, shape: tuple[int, ...], side: int) -> bool:
    """Whether the axis wraps around: in 2-D slices with 16 chips along it, in 3-D slices made of 4x4x4 cubes."""
    return side == 16 if chip.axes == 2 else all(other % 4 == 0 for other in shape)


def _continues(instruction: Instruction) -> bool:
    """Whether this continues a collective that started in an earlier fusion."""
    flag = re.search(r'"flag_start":"(-?\d+)"', instruction.text)
    return flag is not None and int(flag[1]) >= 0


def _bytes(instruction: Instruction, kind: str, chips: int) -> int:
    """Bytes of the values without tile padding, which links do not carry."""
    results, n = instruction.results, len(instruction.operands)
    if instruction.opcode.endswith("-start") and len(results) >= 2 * n:
        results = results[n : 2 * n]  # inputs, outputs, then context
    whole = sum(buffer.size for buffer in results)
    return whole * group_size(instruction.text, chips) if kind == "reduce-scatter" else whole
