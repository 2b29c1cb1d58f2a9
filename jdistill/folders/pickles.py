"""Weights kept as pickles (`pytorch_model.bin`), read by `torch.load(weights_only=True)`, which runs no code of theirs.

torch, the one thing here that not every installation has, is imported when a pickle is read.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jdistill.config import UserError
from jdistill.folders.files import indexed, is_lfs_pointer
from jdistill.folders.names import is_buffer, refuse_types

PICKLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

SAFE = (2, 6)
"""First release of torch whose `weights_only` keeps its promise (CVE-2025-32434)."""


def pickle_files(folder: Path) -> list[Path]:
    """`pytorch_model.bin`, or the parts that its index names; `[]` without either.

    Raises:
      UserError: if parts are missing.
    """
    if (folder / PICKLE).is_file():
        return [folder / PICKLE]
    return indexed(folder / INDEX) if (folder / INDEX).is_file() else []


def read_torch(folder: Path, *, where: str = "cpu") -> dict[str, Any]:
    """The tensors of a folder's pickles, as torch's.

    Args:
      folder: holds `pytorch_model.bin`, in one file or in parts.
      where: torch device; `meta` reads names, shapes and types only.

    Raises:
      UserError: if torch is missing or older than 2.6, or a file is damaged, holds anything but tensors, or tensors
        of a type that weights do not have.
    """
    tensors: dict[str, Any] = {}
    for path in pickle_files(folder):
        tensors |= _checked(path, _load(path, where))
    return tensors


def read_numpy(folder: Path) -> dict[str, np.ndarray]:
    """The same as numpy arrays, bfloat16 as float32, whose numbers are equal.

    Raises:
      UserError: as `read_torch`.
    """
    import_torch(folder / PICKLE)
    return {key: (t.float() if t.dtype.itemsize == 2 else t).numpy() for key, t in read_torch(folder).items()}


def check(folder: Path) -> None:
    """Refuse pickles that `read_torch` would refuse, without keeping their numbers.

    Raises:
      UserError: as `read_torch`.
    """
    read_torch(folder, where="meta")


def import_torch(path: Path) -> Any:
    """The torch module.

    Raises:
      UserError: if it is not installed, or a release that may run code of a pickle.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: the weights are kept as a pickle, which is read with PyTorch only, and that is not installed. "
            f"Where it is (pip install 'jdistill[teacher]'), run `jdistill convert {path.parent} NEW_FOLDER`, and give "
            "that folder."
        ) from error
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < SAFE:
        raise UserError(
            f"{path}: the weights are kept as a pickle, and reading one with torch {torch.__version__} can run code. "
            "Upgrade: pip install 'torch>=2.6'."
        )
    return torch


def _load(path: Path, where: str) -> Any:
    torch = import_torch(path)
    try:
        return torch.load(path, map_location=where, weights_only=True)
    except Exception as error:  # torch lets through what zipfile, pickle and its own reader raise
        pointer = is_lfs_pointer(path)
        reason = " ".join(str(error).split())[:160].rstrip(".")
        if pointer:
            advice = "It is a note of Git LFS: run `git lfs pull` in its repository."
        elif "weights_only" in str(error) or "Weights only" in str(error):
            advice = "It holds more than tensors, which could run code when read. Give a folder with safetensors."
        else:
            advice = "An interrupted download leaves such files. Copy or download it again."
        raise UserError(
            f"{path}: cannot be read as weights, {path.stat().st_size:,} bytes: {reason}. {advice}"
        ) from error


def _checked(path: Path, content: Any) -> dict[str, Any]:
    torch = import_torch(path)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path}: expected a table of tensors, but it holds something else. Give a model's weights.")
    odd: dict[str, list[str]] = {}
    for key, tensor in content.items():
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16) and not is_buffer(key):
            odd.setdefault(str(tensor.dtype).removeprefix("torch."), []).append(str(key))
    refuse_types(path, odd)
    return dict(content)
