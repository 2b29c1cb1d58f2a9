"""Pooling modes without parameters, equal to those of sentence-transformers.

Each mode is a function `(hidden [r, p, d], rows) -> [n, d]` in float32. Padding may be on either side. For a text
without tokens the result is zeros, except for `cls` (the vector of some position) and `max` (minus infinity).
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.student.packing import TokenRows

Mode = Literal["mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken"]

_EPSILON = 1e-9


def mean(hidden: Float[Array, "r p d"], rows: TokenRows) -> Float[Array, "n d"]:
    """`sum_t h_t / max(count, 1e-9)`."""
    return rows.total(hidden) / jnp.maximum(_counts(rows), _EPSILON)[:, None]


def mean_sqrt_len(hidden: Float[Array, "r p d"], rows: TokenRows) -> Float[Array, "n d"]:
    """`sum_t h_t / sqrt(max(count, 1e-9))`."""
    return rows.total(hidden) / jnp.sqrt(jnp.maximum(_counts(rows), _EPSILON))[:, None]


def weightedmean(hidden: Float[Array, "r p d"], rows: TokenRows) -> Float[Array, "n d"]:
    """`sum_t w_t h_t / max(sum_t w_t, 1e-9)` with weights 1, 2, 3, ... from the first token on.

    Source: Muennighoff 2022 (SGPT), arXiv:2202.08904, eq. 2.
    """
    weights = (rows.ordinals + 1).astype(jnp.float32)
    return rows.total(hidden * weights[:, :, None]) / jnp.maximum(rows.total(weights), _EPSILON)[:, None]


def cls(hidden: Float[Array, "r p d"], rows: TokenRows) -> Float[Array, "n d"]:
    """The first token, after any padding on the left."""
    return rows.first(hidden)


def lasttoken(hidden: Float[Array, "r p d"], rows: TokenRows) -> Float[Array, "n d"]:
    """The last token; zeros if there is none."""
    return rows.last(hidden) * (rows.counts > 0).astype(jnp.float32)[:, None]


def maximum(hidden: Float[Array, "r p d"], rows: TokenRows) -> Float[Array, "n d"]:
    """The largest value of each dimension over the tokens."""
    return rows.largest(hidden)


MODES: dict[Mode, Callable[[Array, TokenRows], Array]] = {
    "mean": mean,
    "cls": cls,
    "max": maximum,
    "mean_sqrt_len": mean_sqrt_len,
    "weightedmean": weightedmean,
    "lasttoken": lasttoken,
}


def _counts(rows: TokenRows) -> Float[Array, " n"]:
    return rows.counts.astype(jnp.float32)
