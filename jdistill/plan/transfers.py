"""The collectives of a traced step, independent of the compiler."""

from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

from jdistill.backend import Platform
from jdistill.plan.collectives import Collective
from jdistill.plan.traced import inner_programs, value_bytes

_KINDS = {
    "all_gather": "all-gather",
    "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "psum": "all-reduce",
    "psum_invariant": "all-reduce",
    "pmax": "all-reduce",
    "pmin": "all-reduce",
    "ppermute": "collective-permute",
    "all_to_all": "all-to-all",
}
"""JAX's primitive -> XLA's collective."""


def traced_collectives(program: ClosedJaxpr, platform: Platform) -> list[Collective]:
    """The collectives of a traced step on the platform, largest first, multiplied by loop iterations."""
    found: dict[tuple[str, int], list[int]] = {}
    for kind, group, size, times, looped in _walk(program.jaxpr, platform, {}, 1, False):
        entry = found.setdefault((kind, group), [0, 0, 0])
        entry[0] += times
        entry[1] += times * size
        entry[2] += times if looped else 0
    rows = [Collective(kind, group, *numbers) for (kind, group), numbers in found.items()]
    return sorted(rows, key=lambda row: -row.bytes)


def _walk(
    jaxpr: Jaxpr, platform: Platform, sides: Mapping[str, int], times: int, looped: bool
) -> Iterator[tuple[str, int, int, int, bool]]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _KINDS:
            group = _group(equation, sides)
            values = equation.invars if name == "reduce_scatter" else equation.outvars
            if group > 1:
                yield _KINDS[name], group, sum(map(value_bytes, values)), times, looped
        inside = dict(equation.params["mesh"].shape) if name == "shard_map" else sides
        turns = int(equation.params["length"]) if name == "scan" else 1
        for sub in inner_programs(equation, platform):
            yield from _walk(sub, platform, inside, times * turns, looped or name in ("scan", "while"))


def _group(equation: Any, sides: Mapping[str, int]) -> int:
    named = equation.params.get("axes", equation.params.get("axis_name", ()))
    size = 1
    for axis in named if isinstance(named, tuple | list) else (named,):
        size *= sides.get(axis, 1)
    return size
