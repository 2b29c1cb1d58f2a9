"""Parses the HLO text of a scheduled program into instructions, and counts how often each of them runs.

XLA writes one or more lines per instruction: `%name = type opcode(operands), attributes`. The type includes memory
space and tiling, so bytes include padding, as moved by the chip.
"""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0, "u1": 1, "s1": 1}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_END = re.compile(r'^\}(?:, execution_thread="[^"]*")?\s*$')
_BEGINS = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations|branch_computations|async_execution_thread)=")


class Buffer(NamedTuple):
    """One array of a type."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    """Bytes without padding."""
    padded: int
    """Bytes in memory, with the last axes padded to full tiles."""
    in_hbm: bool
    """False if in the chip's fast memory."""


class Instruction(NamedTuple):
    """One HLO instruction."""

    name: str
    opcode: str
    results: tuple[Buffer, ...]
    operands: tuple[str, ...]
    """Names of instructions; for a constant its value, for a parameter its number."""
    text: str
    """Everything after the operands: attributes and backend config."""
    is_root: bool


class Program(NamedTuple):
    """All computations of a compiled program."""

    computations: dict[str, dict[str, Instruction]]
    """Computation name -> instruction name -> instruction, in scheduled order."""
    entry: str


class Runs(NamedTuple):
    """How often each computation runs in one call of the program."""

    times: dict[str, int]
    """Computation -> number of runs, without those inside fusions, which count as one instruction."""
    unknown: tuple[str, ...]
    """Loops with an unknown trip count; their bodies are counted once."""


def parse_hlo(text: str) -> Program:
    """Parse the text returned by `compiled.as_text()`.

    Raises:
      ValueError: if there is no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in _statements(text):
        if current is None:
            header = _HEADER.match(line)
            if header is not None:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif _END.match(line):
            current = None
        else:
            instruction = _instruction(line)
            if instruction is not None:
                current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY computation, so it is not a compiled program")
    return Program(computations, entry)


def count_runs(program: Program) -> Runs:
    """How often each computation runs: the entry once, loop bodies once per iteration."""
    times: dict[str, int] = {}
    unknown: list[str] = []

    def visit(name: str, count: int) -> None:
        times[name] = times.get(name, 0) + count
        for instruction in program.computations.get(name, {}).values():
            if instruction.opcode == "while":
                trips = trip_count(program, instruction)
                if trips is None:
                    unknown.append(instruction.name)
                visit(_attribute(instruction, "body"), count * (1 if trips is None else trips))
            elif instruction.opcode in ("call", "conditional", "async-start"):
                for called in dict.fromkeys(_called(instruction)):
                    visit(called, count)

    visit(program.entry, 1)
    return Runs(times, tuple(unknown))


def trip_count(program: Program, loop: Instruction) -> int | None:
    """Trip count of a `while`: as annotated, or from a condition `i < constant`, assuming i starts at 0."""
    noted = _TRIPS.search(loop.text)
    if noted is not None:
        return int(noted[1])
    condition = program.computations.get(_attribute(loop, "condition"), {})
    root = next((i for i in condition.values() if i.is_root), None)
    if root is None or root.opcode != "compare" or "direction=LT" not in root.text or len(root.operands) != 2:
        return None
    limit = condition.get(root.operands[1])
    if limit is None or limit.opcode != "constant" or not limit.operands[0].isdigit():
        return None
    return int(limit.operands[0])


def executed(program: Program, runs: Runs) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
    """Every instruction outside of fusions, with its computation and number of runs."""
    for name, times in runs.times.items():
        computation = program.computations.get(name, {})
        for instruction in computation.values():
            yield instruction, computation, times


def fused(program: Program, instruction: Instruction) -> dict[str, Instruction]:
    """The computation inside a fusion; empty for other instructions."""
    if instruction.opcode != "fusion":
        return {}
    return program.computations.get(_attribute(instruction, "calls"), {})


def buffers(text: str) -> tuple[Buffer, ...]:
    """The arrays of a type such as `f32[8,128]{1,0:T(8,128)S(1)}`, or of a tuple type."""
    return tuple(_buffer(*match) for match in _ARRAY.findall(text))


def _buffer(dtype: str, dims: str, layout: str) -> Buffer:
    shape = tuple(int(re.sub(r"\D", "", side)) for side in dims.split(",") if side)
    order, _, notes = layout.partition(":")
    padded = list(shape)
    minor = [int(axis) for axis in order.split(",") if axis.isdigit()]
    tile = re.search(r"T\(([\d,]+)\)", notes)
    if tile is not None:
        for axis, side in zip(minor, reversed([int(side) for side in tile[1].split(",")]), strict=False):
            padded[axis] = -(-padded[axis] // side) * side
    space = re.search(r"S\((\d+)\)", notes)
    size, whole = (-(-prod(sides) * _bits(dtype) // 8) for sides in (shape, padded))
    return Buffer(dtype, shape, size, whole, space is None or space[1] == "0")


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    width = re.match(r"[a-z]+(\d+)", dtype)
    return int(width[1]) * (2 if dtype.startswith("c") else 1) if width else 0


def _statements(text: str) -> Iterator[str]:
    """Lines, with multi-line instructions, such as kernels with metadata, joined into one line.

    The continuation lines of such an instruction may begin with `}`, like the end of a computation.
    """
    whole = ""
    for line in text.splitlines():
        if whole and not (_BEGINS.match(line) or _END.match(line)):
            whole += line
            continue
        if whole:
            yield whole
        whole = line if _BEGINS.match(line) else ""
        if not whole:
            yield line
    if whole:
        yield whole


def _instruction(line: str) -> Instruction | None:
    head, equals, rest = line.strip().partition(" = ")
    if not equals:
        return None
    is_root = head.startswith("ROOT ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode = re.match(r"\s*([\w\-]+)\(", rest[end:])
    if opcode is None:
        return None
    opens = end + opcode.end() - 1
    closes = _closing(rest, opens)
    inside = rest[opens + 1 : closes]
    operands = tuple(_NAME.findall(inside)) if opcode[1] not in ("constant", "parameter") else (inside,)
    name = head.removeprefix("ROOT ").lstrip("%")
    return Instruction(name, opcode[1], buffers(rest[:end]), operands, rest[closes + 1 :], is_root)


def _closing(text: str, opens: int) -> int:
    """Index of the parenthesis that closes the one at `opens`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opens):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


def _attribute(instruction: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", instruction.text)
    return found[1] if found else ""


def _called(instruction: Instruction) -> Iterator[str]:
    for match in _CALLED.finditer(instruction.text):
        end = instruction.text.find("}" if instruction.text[match.end() : match.end() + 1] == "{" else ",", match.end())
        yield from _NAME.findall(instruction.text[match.end() : end if end > 0 else None])
    for key in ("true_computation", "false_computation"):
        name = _attribute(instruction, key)
        if name:
            yield name
