"""Directions: which texts of the batch compete with a row's own pair, and how the directions add up to one loss."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Direction = Literal["q2d", "q2q", "d2q", "d2d"]
"""From the row's text to its candidates: q is a query, d a document."""

Partition = Literal["joint", "per_direction"]
"""One softmax over the candidates of all directions, or one of each direction, averaged."""

TEXTS: dict[Direction, tuple[str, str]] = {
    "q2d": ("queries", "documents"),
    "q2q": ("queries", "queries"),
    "d2q": ("documents", "queries"),
    "d2d": ("documents", "documents"),
}
"""What the row and its candidates are. Hard negatives are candidates only; no row of the matrix belongs to them."""


def crosses(direction: Direction) -> bool:
    """Whether it leads from one side to the other, so that its candidates hold the row's own partner."""
    row, candidates = TEXTS[direction]
    return row != candidates


def check(directions: Sequence[Direction], partition: Partition) -> None:
    """Refuse directions that make no loss.

    Raises:
      ValueError: if q2d is missing, if one is named twice, or if a softmax would not hold the row's own pair.
    """
    if "q2d" not in directions:
        raise ValueError(f"directions {list(directions)} lack q2d, which scores a query's own document. Add it.")
    if len(set(directions)) < len(directions):
        raise ValueError(f"directions {list(directions)} name one twice. Keep each once.")
    within = [direction for direction in directions if not crosses(direction)]
    if partition == "per_direction" and within:
        raise ValueError(
            f"partition 'per_direction' does not go with {' and '.join(within)}, whose candidates never hold the "
            "row's own pair. Use partition 'joint', or leave them out."
        )


def combine(excesses: Mapping[Direction, Float[Array, "*p b"]], partition: Partition) -> Float[Array, "*p b"]:
    """Cross-entropy of each row's own pair, given how far its negatives outweigh it.

    With N the sum of exponentials of a direction's negatives relative to the own pair, whose own is 1, the loss is
    log(1 + N) of each direction, averaged, or log(p + N + N' + ...) over all, where p counts the directions that hold
    the own pair. No difference of large numbers is left that could cancel.

    Args:
      excesses: log N of each row, per direction; -inf where a row has no negatives.
      partition: `"joint"` or `"per_direction"`.
    """
    if partition == "per_direction":
        return jnp.stack([jnp.logaddexp(excess, 0.0) for excess in excesses.values()]).mean(axis=0)
    pairs = jnp.float32(math.log(sum(map(crosses, excesses))))
    return functools.reduce(jnp.logaddexp, excesses.values(), pairs)
