"""Normalize: unit length. It has no files, and so no folder, since git does not keep empty ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.student.head import Normalize

CLASS = "sentence_transformers.models.Normalize"


def read(folder: Path) -> tuple[Normalize, dict[str, np.ndarray]]:
    """The module, without parameters."""
    return Normalize(), {}


def write(module: Normalize, params: Mapping[str, Any], folder: Path) -> None:
    """Nothing to write."""
