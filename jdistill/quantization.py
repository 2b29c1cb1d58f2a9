"""Quantisation of embeddings to int8 or binary, as in sentence-transformers' `quantize_embeddings`."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

from jdistill.config import UserError

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
"""float32; a byte per element, -128 to 127 (int8) or 0 to 255 (uint8); or a bit per element, packed into signed
(binary) or unsigned (ubinary) bytes."""


def quantize(
    vectors: Float[np.ndarray, "n d"], precision: Precision, ranges: Float[np.ndarray, "2 d"] | None = None
) -> Shaped[np.ndarray, "n e"]:
    """Convert vectors to another precision.

        byte_i = floor((x_i - low_i) / ((high_i - low_i) / 255)), clipped to [0, 255]      (minus 128 for int8)
        bit_i  = x_i > 0                                                                   (8 to a byte, first is
        highest)

    Args:
      vectors: `[n, d]` float32.
      precision: of the result; float32 returns the vectors unchanged.
      ranges: lowest and highest value of each dimension, for int8 and uint8; by default those of `vectors`. Compute
        them with `value_ranges` from a few thousand typical vectors, and use the same for queries and documents.

    Returns:
      `[n, d]`, or `[n, ceil(d / 8)]` for binary and ubinary.

    Raises:
      UserError: if `ranges` is missing for a single vector, or has the wrong shape.

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
    # A dimension whose range is a single value has step 0; divided by 1 instead, that value has level 0.
    levels = np.floor((vectors - chosen[0][None]) / np.where(step == 0, 1, step)[None])
    unsigned = np.clip(levels, 0, 255).astype(np.uint8)
    return unsigned if precision == "uint8" else _signed(unsigned)


def value_ranges(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "2 d"]:
    """The lowest and the highest value of each dimension, float32.

    Raises:
      UserError: if there is only one vector, whose ranges are empty.
    """
    if len(vectors) == 0:
        return np.zeros((2, vectors.shape[1]), np.float32)
    if len(vectors) == 1:
        raise UserError(
            "encode: int8 and uint8 need the range of each dimension, which a single vector does not have. Pass "
            "`ranges`, such as jdistill.value_ranges(model.encode(many_texts))."
        )
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32)


def _signed(unsigned: Any) -> Any:
    """Map 0..255 to -128..127."""
    # In int16, since uint8 would wrap round below 0.
    return (unsigned.astype(np.int16) - 128).astype(np.int8)
