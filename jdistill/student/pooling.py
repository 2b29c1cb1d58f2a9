"""Pooling: from one vector per token to one per text, exactly as sentence-transformers does it.

Each mode is a function `(hidden [n, l, d], mask [n, l]) -> [n, d]` in float32; several modes are concatenated in the
order they are listed. Padding may lie on either side. A row of padding only gives zeros, except for `cls` (its first
vector) and `max` (minus infinity), as it does there.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Mode = Literal["mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken"]

_EPSILON = 1e-9


def pool(hidden: Float[Array, "n l d"], mask: Bool[Array, "n l"], modes: Sequence[Mode]) -> Float[Array, "n e"]:
    """The pooled vectors of each mode, side by side: `e = d * len(modes)`, float32.

    Args:
      hidden: one vector per token, any float; the maths runs in float32.
      mask: True where a token is real.
      modes: at least one.
    Source:
      Parity: sentence-transformers Pooling, whose name for `mean_sqrt_len` is `mean_sqrt_len_tokens`.
    """
    wide = hidden.astype(jnp.float32)
    return jnp.concatenate([MODES[mode](wide, mask) for mode in modes], axis=-1)


def mean(hidden: Float[Array, "n l d"], mask: Bool[Array, "n l"]) -> Float[Array, "n d"]:
    """`sum_t m_t h_t / max(sum_t m_t, 1e-9)`."""
    weights = _float(mask)
    return _weighted_sum(hidden, weights) / jnp.maximum(weights.sum(-1), _EPSILON)[:, None]


def mean_sqrt_len(hidden: Float[Array, "n l d"], mask: Bool[Array, "n l"]) -> Float[Array, "n d"]:
    """`sum_t m_t h_t / sqrt(max(sum_t m_t, 1e-9))`."""
    weights = _float(mask)
    return _weighted_sum(hidden, weights) / jnp.sqrt(jnp.maximum(weights.sum(-1), _EPSILON))[:, None]


def weightedmean(hidden: Float[Array, "n l d"], mask: Bool[Array, "n l"]) -> Float[Array, "n d"]:
    """`sum_t w_t h_t / max(sum_t w_t, 1e-9)` with weights 1, 2, 3, ... from the first real token on.

    Source: Muennighoff 2022 (SGPT), arXiv:2202.08904, eq. 2.
    """
    positions = jnp.arange(1, mask.shape[1] + 1)[None, :] - _first(mask)[:, None]
    weights = _float(mask) * _float(positions)
    return _weighted_sum(hidden, weights) / jnp.maximum(weights.sum(-1), _EPSILON)[:, None]


def cls(hidden: Float[Array, "n l d"], mask: Bool[Array, "n l"]) -> Float[Array, "n d"]:
    """The first real token, wherever it stands."""
    return _token(hidden, _first(mask))


def lasttoken(hidden: Float[Array, "n l d"], mask: Bool[Array, "n l"]) -> Float[Array, "n d"]:
    """The last real token; zeros where there is none."""
    last = mask.shape[1] - 1 - _first(mask[:, ::-1])
    return _token(hidden, last) * _float(mask.any(-1))[:, None]


def maximum(hidden: Float[Array, "n l d"], mask: Bool[Array, "n l"]) -> Float[Array, "n d"]:
    """The largest value of each dimension over the real tokens."""
    return jnp.where(mask[:, :, None], hidden, -jnp.inf).max(axis=1)


MODES: dict[Mode, Callable[[Array, Array], Array]] = {
    "mean": mean,
    "cls": cls,
    "max": maximum,
    "mean_sqrt_len": mean_sqrt_len,
    "weightedmean": weightedmean,
    "lasttoken": lasttoken,
}


def _float(x: Array) -> Float[Array, "..."]:
    return x.astype(jnp.float32)


def _first(mask: Bool[Array, "n l"]) -> Array:
    """Index of the first True, 0 where there is none."""
    return mask.argmax(axis=1)


def _token(hidden: Float[Array, "n l d"], index: Array) -> Float[Array, "n d"]:
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]


def _weighted_sum(hidden: Float[Array, "n l d"], weights: Float[Array, "n l"]) -> Float[Array, "n d"]:
    return (hidden * weights[:, :, None]).sum(axis=1)
