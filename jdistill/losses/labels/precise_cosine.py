"""Cosines for losses that divide their differences by a small temperature."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jdistill.losses.maths import normalise

STEPS = 2.0**16
"""Sums of multiples of 1 / STEPS below 2^8 are exact in float32."""


def precise_cosine(a: Float[Array, "p d"], b: Float[Array, "p d"]) -> Float[Array, " p"]:
    """Cosine of each vector of `a` with the same row of `b`, rounded once; 0 if either is zero.

    A float32 cosine computed plainly is off by 1e-7. Over a temperature of 0.01 that is an error of 1e-5 in a logit and
    of 2e-5 in the gradient of `angle`, twice our tolerance.
    """
    a, b = normalise(a), normalise(b)
    plain = jnp.sum(a * b, axis=-1)
    fixed_a, fixed_b, constant = lax.stop_gradient((a, b, plain))
    coarse, rest = _dot(fixed_a, fixed_b)
    # Normalised vectors have norm 1 only up to rounding: |a| is 1 + excess / 2, by which the product is too large.
    rest -= constant * (_excess(fixed_a) + _excess(fixed_b)) / 2
    # plain - constant is 0, with the derivative of the plain cosine.
    return (coarse + rest) + (plain - constant)


def _dot(a: Float[Array, "p d"], b: Float[Array, "p d"]) -> tuple[Float[Array, " p"], Float[Array, " p"]]:
    """Inner products of vectors of norm up to about 1, as sums of two float32, of which the first is exact.

    Each factor is split into two 12-bit halves, whose products are exact in float32. The largest of the products is
    rounded to a multiple of 1 / STEPS, and these multiples are summed apart from what remains.
    """
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    product = a_high * b_high
    coarse = jnp.round(product * STEPS) / STEPS
    rest = (product - coarse) + (a_high * b_low + a_low * b_high + a_low * b_low)
    return coarse.sum(axis=-1), rest.sum(axis=-1)


def _halves(x: Float[Array, "p d"]) -> tuple[Float[Array, "p d"], Float[Array, "p d"]]:
    high = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=11)
    return high, x - high


def _excess(x: Float[Array, "p d"]) -> Float[Array, " p"]:
    """Squared norm minus 1; 0 for vectors too short to have been normalised."""
    coarse, rest = _dot(x, x)
    excess = (coarse - 1) + rest
    return jnp.where(jnp.abs(excess) < 1e-3, excess, 0.0)
