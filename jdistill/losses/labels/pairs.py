"""Precise similarities of query-document pairs, and the pairs' scores."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.losses.maths import float32, normalise


class Scores(NamedTuple):
    """Scores as sums of two float32: after division by a temperature of 0.01, the rounding of a single one is visible.

    The difference of two scores is the difference of their coarse parts, which is exact, plus that of the rest.
    """

    coarse: Float[Array, " p"]
    """Multiples of 2^-16, or 0; constants."""
    rest: Float[Array, " p"]
    """The remainder; it carries the whole derivative."""


def cosines(a: Float[Array, "p d"], b: Float[Array, "p d"]) -> Scores:
    """Cosine of each vector of `a` with the same row of `b`, to about 1e-8; 0 if either is zero."""
    a, b = normalise(a), normalise(b)
    score = jnp.sum(a * b, axis=-1)
    coarse, rest = _dot(a, b)
    # Normalised vectors have norm 1 only up to rounding; correct for it.
    rest = rest - coarse * (_excess(a) + _excess(b)) / 2
    return Scores(coarse, lax.stop_gradient(rest) + (score - lax.stop_gradient(score)))


def dots(a: Float[Array, "p d"], b: Float[Array, "p d"]) -> Scores:
    """Inner product of each vector of `a` with the same row of `b`."""
    score = jnp.sum(float32(a) * float32(b), axis=-1)
    return Scores(jnp.zeros_like(score), score)


def _dot(a: Float[Array, "p d"], b: Float[Array, "p d"]) -> Scores:
    """Inner products of vectors of norm up to about 1, with negligible rounding error; no derivative.

    Each factor is split into two 12-bit halves, whose products are exact in float32. Sums of multiples of 2^-16 are
    exact too.
    """
    (a_high, a_low), (b_high, b_low) = _halves(lax.stop_gradient(a)), _halves(lax.stop_gradient(b))
    product = a_high * b_high
    coarse = jnp.round(product * STEPS) / STEPS
    return Scores(
        coarse.sum(axis=-1), jnp.sum((product - coarse) + (a_high * b_low + a_low * b_high + a_low * b_low), axis=-1)
    )


def _halves(x: Float[Array, "p d"]) -> tuple[Float[Array, "p d"], Float[Array, "p d"]]:
    high = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=11)
    return high, x - high


def _excess(unit: Float[Array, "p d"]) -> Float[Array, " p"]:
    """Squared norm minus 1; 0 for vectors too short to have been normalised."""
    coarse, rest = _dot(unit, unit)
    excess = (coarse - 1) + rest
    return jnp.where(jnp.abs(excess) < 1e-3, excess, 0.0)


STEPS = 2.0**16


def labels_of(scores: Float[Array, "n s"] | None, kind: str) -> Float[Array, " n"]:
    """The single score of each row, float32, for a loss of this `kind`.

    Raises:
      UserError: if the rows have no score, or several.
    """
    if scores is None:
        raise UserError(
            f"{kind} learns from a score of each pair, but these rows have none. Name its column as "
            "data.<source>.columns.score, or use a loss that needs none, such as info_nce."
        )
    if scores.shape[1] != 1:
        raise UserError(
            f"{kind} learns from one score of each pair, but these rows have {scores.shape[1]} each. Name one column "
            "under data.<source>.columns.score, or use a loss for scores of several documents, such as score_kl."
        )
    return float32(scores[:, 0])
