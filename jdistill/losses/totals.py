"""The two streaming reductions over scores: a plain sum, and log-sum-exp."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.types import Merge


class LogSum(NamedTuple):
    """Running log-sum-exp: `largest + log(total)`."""

    largest: Float[Array, "..."]
    """The largest score so far, -inf at the start."""
    total: Float[Array, "..."]
    """Sum of `exp(score - largest)`."""


Totals = LogSum | Float[Array, "..."]
"""Running totals, one for each row, or for each candidate."""


class Reduction(NamedTuple):
    """One streaming reduction."""

    absent: float
    """The score that leaves the reduction unchanged; used for masked entries."""
    empty: Callable[[int, Float[Array, ""]], Any]
    """`(count, zero) -> initial running totals`; built from `zero`, so that it varies over the same mesh axes."""
    total: Callable[[Float[Array, "..."], int], Any]
    """`(scores, axis) -> total` over that axis."""
    merge: Callable[[Any, Any], Any]
    """Totals of two sets of scores -> those of both together."""
    finish: Callable[[Any], Float[Array, "..."]]
    """Total -> result."""
    weight: Callable[[Float[Array, "..."], Any], Float[Array, "..."]]
    """`(scores, total broadcast to them) -> derivative` of the result with respect to each score."""


def merge_logsums(a: LogSum, b: LogSum) -> LogSum:
    """The LogSum of all scores of `a` and `b`."""
    largest = jnp.maximum(a.largest, b.largest)
    # An empty LogSum, whose largest is -inf, is scaled by exp(-inf) = 0, also if both are empty.
    rescaled = (x.total * jnp.exp(x.largest - finite(largest)) for x in (a, b))
    return LogSum(largest, sum(rescaled, jnp.zeros_like(largest)))


def finite(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Replace infinities by 0: subtracting minus infinity from itself would give NaN."""
    return jnp.where(jnp.isfinite(x), x, 0.0)


def _logsum(scores: Array, axis: int) -> LogSum:
    largest = scores.max(axis=axis)
    # Relative to the largest score, no exponential exceeds 1.
    return LogSum(largest, jnp.exp(scores - jnp.expand_dims(finite(largest), axis)).sum(axis=axis))


def _logarithm(logsum: LogSum) -> Array:
    positive = logsum.total > 0
    return jnp.where(positive, finite(logsum.largest) + jnp.log(jnp.where(positive, logsum.total, 1.0)), -jnp.inf)


def _softmax(scores: Array, logsum: LogSum) -> Array:
    # Not exp(score - logsumexp): for scores in the hundreds the rounded logarithm would dominate the error.
    relative = jnp.exp(jnp.where(scores > -jnp.inf, scores - finite(logsum.largest), -jnp.inf))
    # A row whose every score is -inf has no softmax.
    return relative / jnp.where(logsum.total > 0, logsum.total, 1.0)


REDUCTIONS: dict[Merge, Reduction] = {
    "logsumexp": Reduction(
        absent=-jnp.inf,
        empty=lambda count, zero: LogSum(jnp.full(count, -jnp.inf) + zero, jnp.zeros(count) + zero),
        total=_logsum,
        merge=merge_logsums,
        finish=_logarithm,
        weight=_softmax,
    ),
    "sum": Reduction(
        absent=0.0,
        empty=lambda count, zero: jnp.zeros(count) + zero,
        total=lambda scores, axis: scores.sum(axis=axis),
        merge=jnp.add,
        finish=lambda total: total,
        weight=lambda scores, total: jnp.ones_like(scores),
    ),
}
