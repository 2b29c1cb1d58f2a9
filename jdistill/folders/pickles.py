"""Weights saved as pickles (`pytorch_model.bin`), read with `torch.load(weights_only=True)`, which runs no code.

torch is optional and imported only when a pickle is read.
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
"""First release of torch whose `weights_only` is safe (CVE-2025-32434)."""


def pickle_files(folder: Path) -> list[Path]:
    """`pytorch_model.bin`, or the parts listed in its index; `[]` without either.

    Raises:
      UserError: if parts are missing.
    """
    if (folder / PICKLE).is_file():
        return [folder / PICKLE]
    return indexed(folder / INDEX) if (folder / INDEX).is_file() else []


def read_torch(folder: Path, *, where: str = "cpu") -> dict[str, Any]:
    """The tensors of a folder's pickles, as torch tensors.

    Args:
      folder: contains `pytorch_model.bin`, as one file or in parts.
      where: torch device; `meta` reads names, shapes and dtypes only.

    Raises:
      UserError: if torch is missing or older than 2.6, or a file is damaged or contains anything but float tensors.
    """
    tensors: dict[str, Any] = {}
    for path in pickle_files(folder):
        tensors |= _checked(path, _load(path, where))
    return tensors


def read_numpy(folder: Path) -> dict[str, np.ndarray]:
    """The same as numpy arrays; float16 and bfloat16 become float32, which is exact.

    Raises:
      UserError: as `read_torch`.
    """
    import_torch(folder / PICKLE)
    return {key: (t.float() if t.dtype.itemsize == 2 else t).numpy() for key, t in read_torch(folder).items()}


def check(folder: Path) -> None:
    """Reject pickles that `read_torch` would reject, without loading their data.

    Raises:
      UserError: as `read_torch`.
    """
    read_torch(folder, where="meta")


def import_torch(path: Path) -> Any:
    """The torch module.

    Raises:
      UserError: if it is not installed, or the release may run code in a pickle.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: the weights are a pickle, which requires PyTorch, but torch is not installed. Install it (pip "
            f"install 'jdistill[teacher]'), or, on a machine that has it, run `jdistill convert {path.parent} "
            "NEW_FOLDER` and use that folder."
        ) from error
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < SAFE:
        raise UserError(
            f"{path}: the weights are a pickle, and reading one with torch {torch.__version__} can run code. "
            "Upgrade: pip install 'torch>=2.6'."
        )
    return torch


def _load(path: Path, where: str) -> Any:
    torch = import_torch(path)
    try:
        return torch.load(path, map_location=where, weights_only=True)
    except Exception as error:  # torch passes on whatever zipfile, pickle and its own reader raise
        pointer = is_lfs_pointer(path)
        reason = " ".join(str(error).split())[:160].rstrip(".")
        if pointer:
            advice = "It is a Git LFS pointer: run `git lfs pull` in its repository."
        elif "weights_only" in str(error) or "Weights only" in str(error):
            advice = "It contains more than tensors, which could run code. Use a folder with safetensors."
        else:
            advice = "The download may have been interrupted. Copy or download it again."
        raise UserError(
            f"{path}: cannot be read as weights, {path.stat().st_size:,} bytes: {reason}. {advice}"
        ) from error


def _checked(path: Path, content: Any) -> dict[str, Any]:
    torch = import_torch(path)
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path}: expected a dict of tensors, but it contains something else. Use a model's weights.")
    odd: dict[str, list[str]] = {}
    for key, tensor in content.items():
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16) and not is_buffer(key):
            odd.setdefault(str(tensor.dtype).removeprefix("torch."), []).append(str(key))
    refuse_types(path, odd)
    return dict(content)
