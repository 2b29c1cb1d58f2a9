"""Pooling: from one vector per token to one per text. Modes without parameters, and one file for each that has some."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.packing import Rows
from jdistill.student.pooling.base import PoolingModule, PoolingParams
from jdistill.student.pooling.modes import MODES, Mode

__all__ = ["MODES", "Mode", "Pooling", "PoolingModule", "init_poolings", "pool", "pooled_width"]

Pooling = Mode
"""What may be listed under `pooling`."""


def pool(
    hidden: Float[Array, "r p d"],
    rows: Rows,
    poolings: Sequence[Pooling],
    params: Mapping[str, PoolingParams],
    encoder: Mapping[str, Any],
) -> Float[Array, "n e"]:
    """What each pooling gives, side by side, float32.

    Args:
      hidden: one vector per place, any float; the maths runs in float32.
      rows: what the places hold.
      poolings: at least one.
      params: number of a pooling in the list -> its parameters; those without any are left out.
      encoder: the encoder's parameters.
    Source:
      Parity: sentence-transformers Pooling, whose name for `mean_sqrt_len` is `mean_sqrt_len_tokens`.
    """
    wide = hidden.astype(jnp.float32)
    return jnp.concatenate(
        [
            pooling(wide, rows, params[str(i)], encoder)
            if isinstance(pooling, PoolingModule)
            else MODES[pooling](wide, rows)
            for i, pooling in enumerate(poolings)
        ],
        axis=-1,
    )


def init_poolings(poolings: Sequence[Pooling], encoder: EncoderConfig, key: Array) -> dict[str, PoolingParams]:
    """Initial parameters of those that have some, by their number in the list."""
    return {
        str(i): pooling.init(encoder, jax.random.fold_in(key, i))
        for i, pooling in enumerate(poolings)
        if isinstance(pooling, PoolingModule)
    }


def pooled_width(poolings: Sequence[Pooling], encoder: EncoderConfig) -> int:
    """Width of the pooled vectors of all of them side by side."""
    return sum(pooling.width(encoder) if isinstance(pooling, PoolingModule) else encoder.width for pooling in poolings)
