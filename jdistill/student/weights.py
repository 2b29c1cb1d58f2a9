"""Weight tables: the mapping between Hugging Face tensors and parameters, exhaustive in both directions.

A table is a list of `Weight`s. Tensors without a row and rows without a tensor are errors, all reported at once, except
for tensors that the encoder explicitly ignores. Matrices that a file stores in one tensor, such as queries, keys and
values, are separate parameters here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from jdistill.config import UserError


class Weight(NamedTuple):
    """A row of a weight table: a parameter, and where a Hugging Face file has its values."""

    key: str
    """Name of the tensor in a Hugging Face file, without the model's prefix."""
    path: str
    """Path of the parameter, levels separated by dots."""
    transpose: bool = False
    """Torch stores linear layers as `[out, in]`; ours are `[in, out]`."""
    part: tuple[int, int] | None = None
    """`(i, n)` if the tensor is `n` parameters of equal size, concatenated along the first axis, of which this is the
    `i`-th, from 0. The table has a row for each of them."""


def from_hf(
    table: Sequence[Weight],
    tensors: Mapping[str, np.ndarray],
    shapes: PyTree,
    *,
    where: str,
    prefix: str = "",
    ignored: Iterable[str] = (),
) -> dict[str, Any]:
    """Nested float32 parameters from Hugging Face tensors.

    Args:
      table: one row per parameter.
      tensors: name -> array of any float dtype.
      shapes: nested dict with the parameters' shapes (anything with `.shape`).
      where: the file or folder, for error messages.
      prefix: optional prefix to strip from tensor names, such as `bert.`.
      ignored: regular expressions of names (without prefix) that need no row.

    Raises:
      UserError: if there are tensors without a row, parameters without a tensor, wrong shapes, or NaN or infinite
        values; lists the first of each.
    """
    named = {key.removeprefix(prefix): value for key, value in tensors.items()}
    rows = {weight.key for weight in table}
    expected = flatten(shapes)
    # All problems are collected before any is reported: wrong folders usually have several, and one says less.
    unknown = sorted(k for k in named if k not in rows and not any(re.fullmatch(p, k) for p in ignored))
    missing = sorted(k for k in rows if k not in named)
    filled = {weight.path: _parameter(weight, named[weight.key]) for weight in table if weight.key in named}
    wrong = [
        f"{path} is {tuple(value.shape)} instead of {tuple(expected[path].shape)}"
        for path, value in filled.items()
        if tuple(value.shape) != tuple(expected[path].shape)
    ]
    unusable = sorted({weight.key for weight in table if weight.key in named and not _finite(named[weight.key])})
    problems = [
        f"{len(found)} {what} ({_first(found)})"
        for found, what in (
            (unknown, "tensors that this architecture does not have"),
            (missing, "tensors missing"),
            (wrong, "tensors with a wrong shape"),
            (unusable, "tensors with NaN or infinite values"),
        )
        if found
    ]
    if problems:
        raise UserError(
            f"{where}: the weights do not fit the architecture: {'; '.join(problems)}. "
            "Check that config.json and the weights belong together, and that the files were copied completely."
        )
    return nest({path: np.ascontiguousarray(value, dtype=np.float32) for path, value in filled.items()})


def to_hf(table: Sequence[Weight], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters as tensors under their Hugging Face names, float32, contiguous.

    Raises:
      ValueError: if table and parameters do not cover each other.
    """
    flat = flatten(params)
    # Only a wrong table gets here, never a user's file, so this is no UserError.
    if set(flat) != {weight.path for weight in table}:
        raise ValueError(f"table and parameters differ: {sorted(set(flat) ^ {weight.path for weight in table})}")
    rows: dict[str, list[Weight]] = {}
    for weight in table:
        rows.setdefault(weight.key, []).append(weight)
    return {key: _tensor(parts, flat) for key, parts in rows.items()}


def _finite(tensor: np.ndarray) -> bool:
    return bool(np.isfinite(tensor).all())


def _first(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _parameter(weight: Weight, tensor: np.ndarray) -> np.ndarray:
    if weight.part is not None and tensor.ndim:
        index, count = weight.part
        share = tensor.shape[0] // count
        # A remainder goes to the last part, which then fails the check of shapes.
        tensor = tensor[index * share : None if index + 1 == count else (index + 1) * share]
    return tensor.T if weight.transpose else tensor


def _tensor(rows: Sequence[Weight], flat: Mapping[str, Any]) -> np.ndarray:
    parts = sorted(rows, key=lambda weight: weight.part or (0, 1))
    if [weight.part or (0, 1) for weight in parts] != [(i, len(parts)) for i in range(len(parts))]:
        raise ValueError(f"table: {rows[0].key} has the parts {[weight.part for weight in rows]}")
    arrays = [np.asarray(flat[weight.path], dtype=np.float32) for weight in parts]
    arrays = [array.T if weight.transpose else array for weight, array in zip(parts, arrays, strict=True)]
    return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def flatten(tree: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """`{"a": {"b": x}}` as `{"a.b": x}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{parent}.{key}" if parent else str(key)
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": x}` as `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        level = tree
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = value
    return tree
