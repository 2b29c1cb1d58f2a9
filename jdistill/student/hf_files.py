"""The two kinds of files in a Hugging Face folder: tensors as safetensors, and JSON. Nothing is ever unpickled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from jdistill.config import UserError


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder's safetensors, in one file or several with an index.

    Raises:
      UserError: if there are none; pickled weights are refused.
    """
    index = read_json(folder / "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing and not index and (folder / "pytorch_model.bin").is_file():
        raise UserError(
            f"{folder}: has its weights as pytorch_model.bin only, a pickle, which can run any code when it is read. "
            "Convert it where you trust it: AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    if missing:
        raise UserError(f"{folder}: has no {', '.join(missing)}. Weights are read from safetensors files only.")
    return dict(item for name in files for item in _tensors(folder / name))


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with safe_open(str(path), framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            yield key, file.get_tensor(key)


def read_json(path: Path) -> Any:
    """What a JSON file holds; `{}` if there is none.

    Raises:
      UserError: if it is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from error
