"""Values and gradients of a reference, kept in a small file, for a machine where the reference cannot be installed.

`make parity` writes the files out of torch; `python -m tests.losses.recorded` and `python -m tests.student.recorded`
compare with them under any jax. Instead of an array of vectors, a file holds their products with four random
directions: whatever moves a vector moves them, and they are a fraction of the size.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DIRECTIONS = 4


class Recording(NamedTuple):
    arrays: dict[str, list[np.ndarray]]
    """By the row's name; float32."""
    notes: dict[str, Any]
    """What else the rows need, and the versions that were recorded."""
    weights: dict[str, np.ndarray]
    """By name, whole."""


def projected(x: np.ndarray) -> np.ndarray:
    """`[..., d] -> [..., 4]`, by directions that depend on `d` alone; single vectors and numbers as they are.

    Of no special directions: the differences of one-hot vectors, which sharp softmaxes give, would vanish in sums.
    """
    x = np.asarray(x, np.float64)
    if x.ndim < 2 or x.shape[-1] <= DIRECTIONS:
        return x
    return x @ np.random.default_rng(x.shape[-1]).standard_normal((x.shape[-1], DIRECTIONS))


def write(
    path: Path, arrays: Mapping[str, Iterable[Any]], notes: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> None:
    """Write a recording; the same content gives the same bytes."""
    rows = {name: [np.asarray(x, np.float32) for x in found] for name, found in arrays.items()}
    shapes = {name: [list(x.shape) for x in found] for name, found in rows.items()}
    flat = [x.ravel() for found in rows.values() for x in found]
    text = json.dumps({"notes": notes, "shapes": shapes, "weights": list(weights)})
    named = {f"weights{i}": x for i, x in enumerate(weights.values())}
    np.savez_compressed(path, text=np.frombuffer(text.encode(), np.uint8), flat=np.concatenate(flat), **named)


def read(path: Path) -> Recording:
    """What `write` has written."""
    with np.load(path) as file:
        index = json.loads(file["text"].tobytes())
        flat, at, arrays = file["flat"], 0, dict[str, list[np.ndarray]]()
        for name, shapes in index["shapes"].items():
            arrays[name] = []
            for shape in shapes:
                size = int(np.prod(shape))
                arrays[name].append(flat[at : at + size].reshape(shape))
                at += size
        weights = {name: file[f"weights{i}"] for i, name in enumerate(index["weights"])}
    return Recording(arrays, index["notes"], weights)
