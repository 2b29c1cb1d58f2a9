"""Runs an encoder's layers: unrolled or with `jax.lax.scan`, with or without rematerialization.

Results are the same. Unrolled layers run faster. A scan compiles one period of a repeating pattern of layers instead of
every layer, but has to stack their parameters first (docs/performance.md). Rematerialization saves memory by
recomputing activations in the backward pass.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Remat = Literal["none", "products", "everything"]
"""What the backward pass recomputes: nothing; everything except matrix products; everything within a layer."""

_POLICIES: dict[Remat, Any] = {
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "everything": jax.checkpoint_policies.nothing_saveable,
}

Call = Callable[[Any, Float[Array, "n l d"], Array | None], Float[Array, "n l d"]]
"""`(layer, hidden, dropout key) -> hidden`."""


class Pattern(NamedTuple):
    """A repeating pattern: after `first` layers, a sequence of `period` layers repeats `turns` times."""

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
      call: runs one layer. It may close over arrays, but not over a layer.
      hidden: input of the first layer, which is the result for layer 0.
      keys: dropout key of each layer; None disables dropout.
      wanted: numbers of layers run, from 0 to `len(layers)`.
      remat: what the backward pass recomputes.
      scan: scan repeated layers. Ignored if hidden states of an earlier layer are wanted.
    """
    # `jax.checkpoint` and `lax.scan` take arrays, so a layer is passed as a static graph and its arrays.
    parts = [nnx.split(layer) for layer in layers]

    def run(graph: Any, state: Any, x: Array, key: Array | None) -> Array:
        return call(nnx.merge(graph, state), x, key)

    if remat != "none":
        run = jax.checkpoint(run, policy=_POLICIES[remat], static_argnums=0)

    depth, done = max(wanted), {0: hidden}
    graphs = [graph for graph, _ in parts[:depth]]
    # `index` numbers layers so that those with equal graphs, which differ in weights only, have the same number. A scan
    # returns only its last hidden state, so that no earlier one may be wanted.
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

    # One stack of parameters for each place in the period; a step of the scan runs one whole period.
    states = [stacked([parts[number][1] for number in column]) for column in numbers]
    columns = [stacked([keys[number] for number in column]) for column in numbers]

    def turn(x: Array, slices: Any) -> tuple[Array, None]:
        for graph, state, key in zip(graphs, *slices, strict=True):
            x = run(graph, state, x, key)
        return x, None

    return jax.lax.scan(turn, hidden, (states, columns))[0]


def find_pattern(kinds: Sequence[int]) -> Pattern | None:
    """The repeating pattern that compiles the fewest layers; None if no layers repeat.

    Args:
      kinds: an id for each layer, equal for layers that differ only in their weights.
    """
    found: list[tuple[int, Pattern]] = []
    for first in range(len(kinds)):
        for period in range(1, (len(kinds) - first) // 2 + 1):
            turns = 1
            # A slice beyond the end is shorter, and ends the loop.
            while kinds[first : first + period] == kinds[first + turns * period : first + (turns + 1) * period]:
                turns += 1
            if turns > 1:
                compiled = len(kinds) - period * (turns - 1)
                found.append((compiled, Pattern(first, period, turns)))
    # Ties go to the pattern that starts first, then to the shortest period.
    return min(found)[1] if found else None
