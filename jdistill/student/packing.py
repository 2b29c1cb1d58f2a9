"""Packed rows: several texts share a row, so that an encoder computes on few places that hold no token.

Texts come padded, one per row of `Tokens`, and leave padded; in between the encoder sees rows in which texts stand one
behind the other. Attention stays within a text and positions count from its start, so the result is that of the padded
rows.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jdistill.types import Tokens


class Rows(NamedTuple):
    """What an encoder computes on."""

    ids: Int[Array, "r p"]
    positions: Int[Array, "_ p"]
    """Of each place within its text; one row where all rows agree."""
    places: Bool[Array, "r p"] | Int[Array, "r p"]
    """Which places hold a token, or of which text they are, as `attention` wants it."""


def pack(tokens: Tokens) -> Rows:
    """The rows in which the encoder computes: packed where the tokens say how, else one text per row."""
    length = tokens.ids.shape[-1]
    if tokens.packed is None:
        return Rows(tokens.ids, jnp.arange(length)[None], tokens.mask)
    place = jnp.maximum(tokens.packed, 0)
    text = jnp.where(tokens.packed < 0, -1, place // length)
    # Empty places are one more text: they attend each other, and nothing attends them.
    return Rows(tokens.ids.reshape(-1)[place], place % length, text)


def unpack(hidden: Float[Array, "r p d"], tokens: Tokens) -> Float[Array, "n l d"]:
    """One text per row again; what stands at padding has no meaning."""
    if tokens.packed is None:
        return hidden
    n, length = tokens.ids.shape
    r, p, d = hidden.shape
    beyond = n * length  # where empty places write, and are dropped
    target = jnp.where(tokens.packed < 0, beyond, tokens.packed).reshape(-1)
    source = jnp.zeros(beyond, jnp.int32).at[target].set(jnp.arange(r * p, dtype=jnp.int32), mode="drop")
    return hidden.reshape(r * p, d)[source].reshape(n, length, d)
