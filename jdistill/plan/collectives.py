"""The collectives of one step: kind, count and bytes, read from the lines of the compiled program.

XLA writes an instruction as `%name = type opcode(operands), attributes`, for example

    %all-reduce.2 = f32[64]{0:T(128)} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
"""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((.*)", re.DOTALL)
_CALLED = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+)[a-z0-9]*\[([\d,<=]*)\]")
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')


class Collective(NamedTuple):
    """All collectives of one kind and group size."""

    kind: str
    group: int
    """Devices per group."""
    count: int
    """Runs per step, loop iterations included."""
    bytes: int
    """Total bytes of the full values over all runs: outputs, or inputs for reduce-scatter."""
    in_loops: int
    """Number of runs inside loops."""


class Found(NamedTuple):
    """What a compiled program sends."""

    collectives: list[Collective]
    """Largest first."""
    unknown_loops: int
    """Loops around collectives whose trip count the program does not state; their bodies are counted once."""


def find_collectives(text: str, devices: int) -> Found:
    """Count the collectives of a compiled program.

    Loop bodies are multiplied by their trip counts. Of a conditional, all branches are counted. A collective that the
    TPU compiler spreads over several fusions, to overlap it with their work, is counted once.

    Args:
      text: the program, from `compiled.as_text()`.
      devices: number of devices, for collectives that name no groups.

    Raises:
      ValueError: if the text has no entry computation.
    """
    entry, computations = _computations(text)
    totals: dict[tuple[str, int], list[int]] = {}
    unknown = 0

    def visit(name: str, times: int, looped: bool) -> int:
        """Add up one computation and those it calls; returns the number of collectives seen."""
        nonlocal unknown
        seen = 0
        for line in computations.get(name, ()):
            instruction = _INSTRUCTION.match(line)
            if instruction is None:
                continue
            result, opcode, rest = instruction.groups()
            if opcode == "while":
                trips = _trip_count(rest, computations)
                inside = visit(_attribute(rest, "body"), times * (trips or 1), True)
                unknown += trips is None and inside > 0
                seen += inside
            elif not opcode.endswith(("-done", "-update")):  # these repeat what their -start calls
                seen += sum(visit(called, times, looped) for called in _called(rest))
            kind = opcode.removesuffix("-start")
            if kind in KINDS and not _continues(rest):
                group = group_size(rest, devices)
                total = totals.setdefault((kind, group), [0, 0, 0])
                total[0] += times
                # The output of a reduce-scatter is one device's part of the value.
                total[1] += times * _bytes(result, rest) * (group if kind == "reduce-scatter" else 1)
                total[2] += times if looped else 0
                seen += 1
        return seen

    visit(entry, 1, False)
    collectives = [Collective(kind, group, *total) for (kind, group), total in totals.items()]
    return Found(sorted(collectives, key=lambda c: -c.bytes), unknown)


def group_size(text: str, devices: int) -> int:
    """Devices per group, from XLA's notations of `replica_groups`; all devices if there is none."""
    lists = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    if lists is not None:
        return len(lists[1].split(","))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", text)
    if iota is not None:
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh is not None:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        return prod(sizes.get(axis, 1) for axis in re.findall(r"'([^']+)'", mesh[2]))
    return devices


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
    """Name of the entry, and the instructions of every computation.

    An instruction may take several lines: kernels have metadata with line breaks.
    """
    entry, computations = "", {}
    lines: list[str] = []
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header is not None:
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif _INSTRUCTION.match(line) or not lines:
            lines.append(line)
        else:
            lines[-1] += line
    if not entry:
        raise ValueError("the text has no ENTRY computation, so it is not a compiled program")
    return entry, computations


def _called(rest: str) -> Iterator[str]:
    yield from _CALLED.findall(rest)
    for names in _BRANCHES.findall(rest):
        yield from re.findall(r"[\w.\-]+", names)


def _trip_count(loop: str, computations: dict[str, list[str]]) -> int | None:
    """Trip count as annotated, or from a condition `i < constant`, as JAX's loops over counters have it, from 0."""
    known = _TRIPS.search(loop)
    if known is not None:
        return int(known[1])
    condition = "\n".join(computations.get(_attribute(loop, "condition"), ()))
    limit = re.search(r"ROOT .* compare\(\S+, %?([\w.\-]+)\), direction=LT", condition)
    value = limit and re.search(rf"%?{re.escape(limit[1])} = \S+ constant\((\d+)\)", condition)
    return int(value[1]) if value else None


def _attribute(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", text)
    return found[1] if found else ""


def _continues(rest: str) -> bool:
    """Whether this continues a collective that an earlier fusion of the TPU compiler has started."""
    flag = re.search(r'"flag_start":"(-?\d+)"', rest)
    return flag is not None and int(flag[1]) >= 0


def _bytes(result: str, rest: str) -> int:
    """Bytes of the output, without the tile padding of memory, which links do not carry."""
    sizes = [_array_bytes(dtype, dims) for dtype, dims in _ARRAY.findall(result)]
    operands = rest.partition("), ")[0].count("%")
    if operands and len(sizes) >= 2 * operands:  # of an asynchronous start: inputs, outputs, context
        sizes = sizes[operands : 2 * operands]
    return sum(sizes)


def _array_bytes(dtype: str, dims: str) -> int:
    # The digits of a dtype are its bits; a dimension may be `<=8`, of dynamic size.
    bits = {"pred": 8, "token": 0}.get(dtype) or int(re.sub(r"\D", "", dtype) or 0)
    return -(-prod(int(re.sub(r"\D", "", side)) for side in dims.split(",") if side) * bits // 8)
