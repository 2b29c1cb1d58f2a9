"""Directions: which in-batch texts serve as negatives, and how several directions combine into one loss."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Direction = Literal["q2d", "q2q", "d2q", "d2d"]
"""From the row's text (q query, d document) to its candidates."""

Partition = Literal["joint", "per_direction"]
"""One softmax over the candidates of all directions, or one per direction, averaged."""

TEXTS: dict[Direction, tuple[str, str]] = {
    "q2d": ("queries", "documents"),
    "q2q": ("queries", "queries"),
    "d2q": ("documents", "queries"),
    "d2d": ("documents", "documents"),
}
"""Direction -> kind of the row's text, kind of its candidates. Hard negatives are only ever candidates, not rows."""


def crosses(direction: Direction) -> bool:
    """Whether the row's text and the candidates are of different kinds, so that the candidates contain the positive."""
    row, candidates = TEXTS[direction]
    return row != candidates


def check(directions: Sequence[Direction], partition: Partition) -> None:
    """Validate the combination of directions and partition.

    Raises:
      ValueError: if q2d is missing, a direction is repeated, or a softmax would not contain the positive.
    """
    if "q2d" not in directions:
        raise ValueError(f"directions {list(directions)} lack q2d, which scores a query's own document. Add it.")
    if len(set(directions)) < len(directions):
        raise ValueError(f"directions {list(directions)} name one twice. Name each once.")
    within = [direction for direction in directions if not crosses(direction)]
    if partition == "per_direction" and within:
        raise ValueError(
            f"partition 'per_direction' does not go with {' and '.join(within)}, whose candidates do not contain the "
            "positive. Use partition 'joint', or leave them out."
        )


def combine(excesses: Mapping[Direction, Float[Array, "*p b"]], partition: Partition) -> Float[Array, "*p b"]:
    """Cross-entropy of each row's positive, given its negatives relative to it.

    Let N be the sum of a direction's exp(negative logit - positive logit). Then the loss is log(1 + N), averaged over
    directions, or log(p + N + N' + ...) over all directions, where p counts those that contain the positive. This form
    has no difference of large numbers that could cancel.

    Args:
      excesses: log N of each row, per direction; -inf where a row has no negatives.
      partition: `"joint"` or `"per_direction"`.
    """
    if partition == "per_direction":
        return jnp.stack([jnp.logaddexp(excess, 0.0) for excess in excesses.values()]).mean(axis=0)
    pairs = jnp.float32(math.log(sum(map(crosses, excesses))))
    return functools.reduce(jnp.logaddexp, excesses.values(), pairs)
