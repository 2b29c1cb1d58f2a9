"""LayerNorm: scale and bias, in `config.json` and `model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill.config import UserError
from jdistill.folders import read_json, read_tensors, write_json, write_tensors
from jdistill.student import weights
from jdistill.student.head import LayerNorm
from jdistill.student.weights import Weight

CLASS = "sentence_transformers.models.LayerNorm"

ROWS = [Weight("norm.weight", "scale"), Weight("norm.bias", "bias")]
"""The weight table."""


def read(folder: Path) -> tuple[LayerNorm, dict[str, np.ndarray]]:
    """The layer and its parameters.

    Raises:
      UserError: if the width is missing, or the weights do not fit.
    """
    width = read_json(folder / "config.json").get("dimension")
    if not isinstance(width, int) or width < 1:
        raise UserError(f"{folder / 'config.json'}: dimension is {width!r}; expected the width of the vectors.")
    shapes = jax.eval_shape(lambda: LayerNorm().init(width, jax.random.key(0)))
    return LayerNorm(), weights.from_hf(ROWS, read_tensors(folder), shapes, where=str(folder))


def write(module: LayerNorm, params: Mapping[str, Any], folder: Path) -> None:
    """Write both files; epsilon is torch's default, and not stored."""
    write_json(folder / "config.json", {"dimension": int(np.shape(params["scale"])[0])})
    write_tensors(folder / "model.safetensors", weights.to_hf(ROWS, params))
