"""FLOPs, bytes and peak memory of a step, counted in its jaxpr, before compilation.

Unlike the compiler's counts, they include loop iterations. Only matrix products count as FLOPs; the rest is 1 or 2 %.
Values are global outside of `shard_map`, and per device inside.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, Var

from jdistill.backend import Platform


class Work(NamedTuple):
    """Work of one step, all devices together."""

    flops: float
    """FLOPs of matrix products; a multiply-add counts as two."""
    bytes: float
    """Bytes read and written by matrix products, reductions and look-ups, as if all else were fused into them."""
    unknown_loops: int
    """Loops with an unknown number of iterations; their bodies are counted once."""


def find_work(program: ClosedJaxpr, platform: Platform) -> Work:
    """FLOPs and bytes of a traced step; platform-dependent code is counted as on `platform`."""
    return work_of(program.jaxpr, platform)


def peak_bytes(program: ClosedJaxpr, platform: Platform) -> int:
    """Peak bytes of live values on one device, without arguments.

    Follows the order of the trace without fusion, so a compiled program needs less.
    """
    return _peak(program.jaxpr, platform)


def work_of(jaxpr: Jaxpr, platform: Platform) -> Work:
    """FLOPs and bytes of one run of a jaxpr."""
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
        if equation.primitive.name == KERNEL:  # its inner reads and writes are in fast memory
            inner = [work._replace(bytes=0.0) for work in inner]
        if equation.primitive.name == "cond":  # one branch runs; count the largest
            inner = [max(inner, key=lambda work: work.flops)] if inner else []
        for work in inner:
            flops += turns * work.flops
            moved += turns * work.bytes
            unknown += work.unknown_loops
    return Work(flops, moved, unknown)


KERNEL = "pallas_call"
"""The primitive of Pallas kernels."""

_MOVING = {"dot_general", "reduce_sum", "reduce_max", "argmax", "sort", "cumsum", "transpose", KERNEL}
_LOOK_UPS = {"gather", "scatter-add", "scatter"}


def turns_of(equation: Any) -> int:
    """How often the inner programs of an equation run, all devices together."""
    if equation.primitive.name == "scan":
        return int(equation.params["length"])
    if equation.primitive.name == "shard_map":
        return int(equation.params["mesh"].size)
    if equation.primitive.name == KERNEL:  # one block per grid point; blocks skipped by a mask are counted, too
        return prod(side for side in equation.params["grid_mapping"].grid if isinstance(side, int))
    return 1


def inner_programs(equation: Any, platform: Platform) -> Iterator[Jaxpr]:
    """The jaxprs that an equation runs on the platform: loop bodies, branches, calls."""
    ways = equation.params.get("branches_platforms")
    if ways is not None:  # `lax.platform_dependent`: platforms of each branch, None for the default
        place = next(i for i, names in enumerate(ways) if names is None or platform in names)
        yield equation.params["branches"][place].jaxpr
        return
    # Custom derivatives are attached to the function, but do not run here; where they run, they are traced separately.
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
        stacked = (
            results if equation.primitive.name == "scan" else 0
        )  # results of other equations are already counted inside
        peak = max(peak, alive + inside + stacked, alive + results)
        sizes |= new
        alive += results
        for var in {var for var in (*equation.invars, *equation.outvars) if isinstance(var, Var)}:
            if last.get(var, i) <= i:
                alive -= sizes.pop(var, 0)
    return peak


def _parts(equation: Any) -> dict[Any, int]:
    """Number of shards of each input and output of a shard_map."""
    if equation.primitive.name != "shard_map":
        return {}
    sides, parts = equation.params["mesh"].shape, {}
    for variables, specs in ((equation.invars, "in_specs"), (equation.outvars, "out_specs")):
        for var, spec in zip(variables, equation.params[specs], strict=True):
            if isinstance(var, Var):
                named = [axis for entry in spec for axis in (entry if isinstance(entry, tuple) else (entry,)) if axis]
                parts[var] = prod(sides[axis] for axis in named)
    return parts
