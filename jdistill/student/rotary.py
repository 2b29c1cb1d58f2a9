"""Rotary position embeddings: queries and keys are rotated by angles proportional to their positions.

Scores then depend only on the distance of two tokens, so packed and padded rows agree.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class RopeTables(NamedTuple):
    """Cosine and sine of each position's angles, float32; one row if all rows are equal."""

    cosine: Float[Array, "_ p d"]
    sine: Float[Array, "_ p d"]


def turn(positions: Int[Array, "_ p"], head_dim: int, theta: float, *, factor: float = 1.0) -> RopeTables:
    """Cosine and sine of `position / factor * theta^(-2i / d)`, repeated for the two halves of a head.

    Args:
      positions: position of each token within its text.
      head_dim: `d`, even; width of the rotated part of a head.
      theta: rotary base.
      factor: positions are divided by it (linear scaling).

    Source:
      Su et al. 2021, arXiv:2104.09864, eq. 34; halves instead of neighbouring pairs, as in GPT-NeoX and transformers.
    """
    inverse = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim) / factor
    angles = positions.astype(jnp.float32)[..., None] * inverse[None, None, :]
    angles = jnp.concatenate([angles, angles], axis=-1)
    return RopeTables(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "n p h d"], by: RopeTables) -> Float[Array, "n p h d"]:
    """`x` rotated; float32 inside, dtype of `x` outside. If `by` is narrower than a head, the rest is unchanged."""
    wide, width = x.astype(jnp.float32), by.cosine.shape[-1]
    turned, rest = wide[..., :width], wide[..., width:]
    first, second = jnp.split(turned, 2, axis=-1)
    cosine, sine = by.cosine[:, :, None, :], by.sine[:, :, None, :]
    turned = turned * cosine + jnp.concatenate([-second, first], axis=-1) * sine
    return jnp.concatenate([turned, rest], axis=-1).astype(x.dtype) if rest.shape[-1] else turned.astype(x.dtype)
