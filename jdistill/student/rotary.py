"""Rotary position embeddings: queries and keys are rotated by angles proportional to their positions.

Scores then depend only on the distance of two tokens, so packed and padded rows agree.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Rope(NamedTuple):
    """Parameters of rotary positions."""

    theta: float
    """Rotary base: the slowest angle turns once in about `2 pi theta` tokens."""
    factor: float = 1.0
    """Positions are divided by it (linear scaling), for texts longer than those trained on."""


class RopeTables(NamedTuple):
    """Cosine and sine of each position's angles, float32; one row if all rows are equal."""

    cosine: Float[Array, "_ p d"]
    sine: Float[Array, "_ p d"]


def rope_tables(positions: Int[Array, "_ p"], head_dim: int, rope: Rope) -> RopeTables:
    """Cosine and sine of `position / factor * theta^(-2i / d)`, repeated for the two halves of a head.

    Args:
      positions: position of each token within its text.
      head_dim: `d`, even; width of the rotated part of a head.
      rope: base and factor.

    Source:
      Su et al. 2021, arXiv:2104.09864, eq. 34; halves instead of neighbouring pairs, as in GPT-NeoX and transformers.
    """
    inverse = rope.theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim) / rope.factor
    angles = positions.astype(jnp.float32)[..., None] * inverse[None, None, :]  # [_ p d/2]
    angles = jnp.concatenate([angles, angles], axis=-1)
    return RopeTables(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "n p h d"], tables: RopeTables) -> Float[Array, "n p h d"]:
    """`x` rotated; float32 inside, dtype of `x` outside. What of a head is wider than the tables stays as it is."""
    wide, width = x.astype(jnp.float32), tables.cosine.shape[-1]
    turned, rest = wide[..., :width], wide[..., width:]
    first, second = jnp.split(turned, 2, axis=-1)
    cosine, sine = tables.cosine[:, :, None, :], tables.sine[:, :, None, :]
    turned = turned * cosine + jnp.concatenate([-second, first], axis=-1) * sine
    return jnp.concatenate([turned, rest], axis=-1).astype(x.dtype) if rest.shape[-1] else turned.astype(x.dtype)
