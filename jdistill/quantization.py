"""Vectors in fewer bits, for indexes: a byte or a bit per number, as sentence-transformers' `quantize_embeddings`."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

from jdistill.config import UserError

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
"""A number as float32, as a byte (-128 to 127, or 0 to 255), or as a bit; eight bits are a byte, signed or not."""


def quantize(
    vectors: Float[np.ndarray, "n d"], precision: Precision, ranges: Float[np.ndarray, "2 d"] | None = None
) -> Shaped[np.ndarray, "n e"]:
    """The vectors in another precision.

        byte_i = floor((x_i - low_i) / ((high_i - low_i) / 255)), cut to [0, 255]          (less 128 for int8)
        bit_i  = x_i > 0                                                                   (of 8, the first is highest)

    Args:
      vectors: `[n, d]` float32.
      precision: of the result; a float32 one is returned as it is.
      ranges: lowest and highest value of each dimension, for bytes: those of a few thousand vectors such as will be
        indexed (`value_ranges`). Queries and documents need the same. By default those of `vectors` themselves.

    Returns:
      `[n, d]`, or `[n, ceil(d / 8)]` of bits.

    Raises:
      UserError: if ranges would have to come from a single vector, or are not of its width.

    Source:
      Parity: sentence_transformers.util.quantize_embeddings.
    """
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else _signed(bits)
    chosen = value_ranges(vectors) if ranges is None else np.asarray(ranges, np.float32)
    if chosen.shape != (2, vectors.shape[1]):
        raise UserError(
            f"encode: ranges have the shape {list(chosen.shape)}, expected [2, {vectors.shape[1]}]: the lowest and the "
            "highest value of each dimension."
        )
    step = (chosen[1] - chosen[0]) / 255
    levels = np.floor((vectors - chosen[0][None]) / np.where(step == 0, 1, step)[None])
    unsigned = np.clip(levels, 0, 255).astype(np.uint8)
    return unsigned if precision == "uint8" else _signed(unsigned)


def value_ranges(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "2 d"]:
    """The lowest and the highest value of each dimension, float32.

    Raises:
      UserError: if there are fewer than two vectors, whose ranges are empty.
    """
    if len(vectors) == 0:
        return np.zeros((2, vectors.shape[1]), np.float32)
    if len(vectors) == 1:
        raise UserError(
            "encode: int8 and uint8 need the range of each dimension, which one vector has not. Give `ranges`, such as "
            "jdistill.value_ranges(model.encode(many_texts))."
        )
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32)


def _signed(unsigned: Any) -> Any:
    """0 to 255 as -128 to 127."""
    return (unsigned.astype(np.int16) - 128).astype(np.int8)
