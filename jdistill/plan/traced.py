"""What a step computes, counted in the program that JAX traced, before any compiler has seen it.

Unlike the compiler's own count it knows how often every loop turns. Only matrix products are counted as FLOPs: the rest
is a percent or two. Values outside `shard_map` are whole there, those inside are one device's.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, Var

from jdistill.backend import Platform


class Work(NamedTuple):
    """Of all devices together, in one step."""

    flops: float
    """Of matrix products, a multiplication and an addition each."""
    bytes: float
    """That matrix products, reductions and look-ups read and write, as if all else were fused into them."""
    unknown_loops: int
    """Loops without a fixed number of turns, whose bodies are counted once."""


def find_work(program: ClosedJaxpr, platform: Platform) -> Work:
    """FLOPs and bytes of a traced step on the platform: where the step has a way of its own for it, of that way."""
    return work_of(program.jaxpr, platform)


def peak_bytes(program: ClosedJaxpr, platform: Platform) -> int:
    """Bytes of the values that are alive at once on one device, at their most, arguments left out.

    In the order of the trace, and nothing is fused, so a compiler needs less.
    """
    return _peak(program.jaxpr, platform)


def work_of(jaxpr: Jaxpr, platform: Platform) -> Work:
    """FLOPs and bytes of a part of a step, run once."""
    flops, moved, unknown = 0.0, 0.0, 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            flops += _dot_flops(equation)
        if equation.primitive.name in _MOVING:
            moved += sum(value_bytes(var) for var in (*equation.invars, *equation.outvars))
        elif equation.primitive.name in _LOOK_UPS:
            moved += 2 * value_bytes(
                equation.outvars[0] if equation.primitive.name == "gather" else equation.invars[-1]
            )
        turns = turns_of(equation)
        unknown += equation.primitive.name == "while"
        inner = [work_of(sub, platform) for sub in inner_programs(equation, platform)]
        if equation.primitive.name == KERNEL:  # what it reads and writes inside lies in fast memory
            inner = [work._replace(bytes=0.0) for work in inner]
        if equation.primitive.name == "cond":  # one branch runs: the largest
            inner = [max(inner, key=lambda work: work.flops)] if inner else []
        for work in inner:
            flops += turns * work.flops
            moved += turns * work.bytes
            unknown += work.unknown_loops
    return Work(flops, moved, unknown)


KERNEL = "pallas_call"
"""A kernel that is written out, not left to XLA."""

_MOVING = {"dot_general", "reduce_sum", "reduce_max", "argmax", "sort", "cumsum", "transpose", KERNEL}
_LOOK_UPS = {"gather", "scatter-add", "scatter"}


def turns_of(equation: Any) -> int:
    """How often the inner programs of an equation run on all devices together."""
    if equation.primitive.name == "scan":
        return int(equation.params["length"])
    if equation.primitive.name == "shard_map":
        return int(equation.params["mesh"].size)
    if equation.primitive.name == KERNEL:  # one block a turn; blocks that a mask leaves out are counted too
        return prod(side for side in equation.params["grid_mapping"].grid if isinstance(side, int))
    return 1


def inner_programs(equation: Any, platform: Platform) -> Iterator[Jaxpr]:
    """The programs that an equation runs on the platform: bodies of loops, branches, calls."""
    ways = equation.params.get("branches_platforms")
    if ways is not None:  # `lax.platform_dependent`: each way names its platforms, and last the default names none
        place = next(i for i, names in enumerate(ways) if names is None or platform in names)
        yield equation.params["branches"][place].jaxpr
        return
    # A function with its own derivative carries that of its derivative too, which is traced elsewhere where it runs.
    for name, value in equation.params.items():
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun"):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * prod(equation.outvars[0].aval.shape) * prod(left[axis] for axis in contracted)


def value_bytes(var: Any) -> int:
    """Bytes of a value, without padding."""
    shape, dtype = getattr(var.aval, "shape", ()), getattr(var.aval, "dtype", None)
    return prod(shape) * getattr(dtype, "itemsize", 0)


def _peak(jaxpr: Jaxpr, platform: Platform) -> int:
    last: dict[Any, int] = {}
    parts: dict[Any, int] = {}
    for i, equation in enumerate(jaxpr.eqns):
        last |= {var: i for var in equation.invars if isinstance(var, Var)}
        parts |= _parts(equation)
    last |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if isinstance(var, Var)}
    sizes: dict[Any, int] = {}
    alive = peak = 0
    for i, equation in enumerate(jaxpr.eqns):
        inner = () if equation.primitive.name == KERNEL else inner_programs(equation, platform)
        inside = max((_peak(sub, platform) for sub in inner), default=0)
        new = {var: value_bytes(var) // parts.get(var, 1) for var in equation.outvars if isinstance(var, Var)}
        results = sum(new.values())
        stacked = results if equation.primitive.name == "scan" else 0  # other results are alive inside already
        peak = max(peak, alive + inside + stacked, alive + results)
        sizes |= new
        alive += results
        for var in {var for var in (*equation.invars, *equation.outvars) if isinstance(var, Var)}:
            if last.get(var, i) <= i:
                alive -= sizes.pop(var, 0)
    return peak


def _parts(equation: Any) -> dict[Any, int]:
    """Of the values that go into a shard_map and come out of it, over how many devices each is split."""
    if equation.primitive.name != "shard_map":
        return {}
    sides, parts = equation.params["mesh"].shape, {}
    for variables, specs in ((equation.invars, "in_specs"), (equation.outvars, "out_specs")):
        for var, spec in zip(variables, equation.params[specs], strict=True):
            if isinstance(var, Var):
                named = [axis for entry in spec for axis in (entry if isinstance(entry, tuple) else (entry,)) if axis]
                parts[var] = prod(sides[axis] for axis in named)
    return parts
