"""Running an encoder's layers one after the other: unrolled or scanned, with or without rematerialisation.

None of it changes a result. Unrolled is the faster program; a scan compiles one turn of a deep encoder's pattern of
layers instead of every layer, for which it has to lay their parameters together first (docs/performance.md).
Rematerialisation keeps less for the backward pass and computes it again there.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Remat = Literal["none", "products", "everything"]
"""What the backward pass computes again: nothing; all but matrix products; all of a layer but its input."""

_POLICIES: dict[Remat, Any] = {
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "everything": jax.checkpoint_policies.nothing_saveable,
}

Call = Callable[[Any, Float[Array, "n l d"], Array | None], Float[Array, "n l d"]]
"""`(layer, hidden, dropout key) -> hidden`."""


class Pattern(NamedTuple):
    """Layers that repeat: after `first` of their own, `turns` times a sequence of `period` layers."""

    first: int
    period: int
    turns: int


def run_layers(
    layers: Sequence[nnx.Module],
    call: Call,
    hidden: Float[Array, "n l d"],
    keys: Sequence[Array | None],
    *,
    wanted: Sequence[int],
    remat: Remat = "none",
    scan: bool = False,
) -> dict[int, Float[Array, "n l d"]]:
    """The hidden states after each of `wanted` layers.

    Args:
      layers: in the order in which they run.
      call: runs one of them. It may close over arrays, but not over a layer.
      hidden: what goes into the first, which is also what layer 0 stands for.
      keys: of each layer, for dropout; all None without.
      wanted: numbers of layers done, from 0 to `len(layers)`.
      remat: what is computed again in the backward pass.
      scan: scan repeating layers. Where an earlier layer is wanted, they are unrolled in any case.
    """
    parts = [nnx.split(layer) for layer in layers]

    def run(graph: Any, state: Any, x: Array, key: Array | None) -> Array:
        return call(nnx.merge(graph, state), x, key)

    if remat != "none":
        run = jax.checkpoint(run, policy=_POLICIES[remat], static_argnums=0)

    depth, done = max(wanted), {0: hidden}
    graphs = [graph for graph, _ in parts[:depth]]
    pattern = find_pattern([graphs.index(graph) for graph in graphs]) if scan and {*wanted} == {depth} else None
    number = 0
    while number < depth:
        if pattern is not None and number == pattern.first:
            hidden = _scanned(parts, run, hidden, keys, pattern)
            number += pattern.period * pattern.turns
        else:
            hidden = run(*parts[number], hidden, keys[number])
            number += 1
        done[number] = hidden
    return {layer: done[layer] for layer in wanted}


def _scanned(parts: Sequence[tuple[Any, Any]], run: Any, hidden: Array, keys: Sequence[Any], pattern: Pattern) -> Array:
    first, period, turns = pattern
    graphs = [graph for graph, _ in parts[first : first + period]]
    numbers = [[first + turn * period + place for turn in range(turns)] for place in range(period)]

    def stacked(trees: list[Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    states = [stacked([parts[number][1] for number in column]) for column in numbers]
    columns = [stacked([keys[number] for number in column]) for column in numbers]

    def turn(x: Array, slices: Any) -> tuple[Array, None]:
        for graph, state, key in zip(graphs, *slices, strict=True):
            x = run(graph, state, x, key)
        return x, None

    return jax.lax.scan(turn, hidden, (states, columns))[0]


def find_pattern(kinds: Sequence[int]) -> Pattern | None:
    """The repetition that compiles the fewest layers; None where nothing repeats.

    Args:
      kinds: of each layer, equal where layers differ in nothing but their weights.
    """
    found: list[tuple[int, Pattern]] = []
    for first in range(len(kinds)):
        for period in range(1, (len(kinds) - first) // 2 + 1):
            turns = 1
            while kinds[first : first + period] == kinds[first + turns * period : first + (turns + 1) * period]:
                turns += 1
            if turns > 1:
                compiled = len(kinds) - period * (turns - 1)
                found.append((compiled, Pattern(first, period, turns)))
    return min(found)[1] if found else None
