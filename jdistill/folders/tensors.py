"""Reads and writes the weights of a model's folder.

Safetensors are read with that library. Pickles (`pytorch_model.bin`) are read by `folders.pickles`, which needs torch.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jdistill.config import UserError
from jdistill.folders import pickles
from jdistill.folders.files import indexed, is_lfs_pointer
from jdistill.folders.names import FLOATS, canonical, is_buffer, refuse_types

_OTHERS = ("tf_model.h5", "flax_model.msgpack", "*.gguf", "*.ckpt*", "*.onnx", "*.pt")
"""Weight files of other libraries."""


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All weights of a folder under their current names in transformers, without buffers.

    Reads safetensors, as one file or several with an index; else pickles, if torch is installed.

    Raises:
      UserError: if there are no weights, a file is missing or damaged, or a dtype is not a float.
    """
    files = weight_files(folder)
    items = (item for file in files for item in _read(file)) if files else pickles.read_numpy(folder).items()
    tensors: dict[str, np.ndarray] = {}
    for key, tensor in items:
        name = canonical(key)
        if is_buffer(name):
            continue
        # An old and a new name may be the same tensor twice; which of them counts would be chance.
        if name in tensors:
            raise UserError(f"{folder}: its weights contain {name} twice, also as {key}. Expected each name once.")
        tensors[name] = tensor
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write float32 safetensors; arrays are made contiguous, since safetensors ignores strides."""
    plain = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    # Some releases of transformers refuse a file without `format`.
    save_file(plain, path, metadata={"format": "pt"})


def check_tensors(folder: Path) -> None:
    """Reject weights that are missing, damaged or not floats; reads little more than the headers.

    Raises:
      UserError: as `read_tensors`.
    """
    files = weight_files(folder)
    for file in files:
        with _opened(file) as tensors:
            _check_types(file, tensors)
    if not files:
        pickles.check(folder)


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors: the single file if it exists, else those in the index; `[]` if there are only pickles.

    Raises:
      UserError: if there are no weights, or a file in the index is missing.
    """
    # As in transformers, which ignores the index next to a single file.
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return indexed(index)
    if pickles.pickle_files(folder):
        return []
    others = sorted(path.name for pattern in _OTHERS for path in folder.glob(pattern))
    found = f", only {', '.join(others)}, which is not supported" if others else ""
    raise UserError(
        f"{folder}: has no model.safetensors{found}. Expected a model's folder with safetensors weights: copy or "
        "download all of its files, or write one with transformers' save_pretrained."
    )


def _read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with _opened(path) as file:
        _check_types(path, file)
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            yield key, file.get_tensor(key)


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="numpy")
    except SafetensorError as error:
        pointer = path.is_file() and is_lfs_pointer(path)
        do = (
            "It is a Git LFS pointer: run `git lfs pull` in its repository."
            if pointer
            else "The download may have been interrupted. Copy or download it again."
        )
        raise UserError(
            f"{path}: damaged, or not a safetensors file: {error}, with {path.stat().st_size:,} bytes. {do}"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}. Check the file and its permissions.") from error


def _check_types(path: Path, file: Any) -> None:
    odd: dict[str, list[str]] = {}
    for key in file.keys():  # noqa: SIM118 (not a mapping)
        # A slice reads only the header.
        dtype = file.get_slice(key).get_dtype()
        if dtype not in FLOATS and not is_buffer(key) and key != "mapping":  # model2vec's map of tokens to rows
            odd.setdefault(dtype, []).append(key)
    refuse_types(path, odd)
