"""Names and dtypes of tensors in a model's files."""

import re
from pathlib import Path

from jdistill.config import UserError

FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes that weights may have, as safetensors names them."""

_BUFFER = re.compile(r"(.*\.)?(position_ids|token_type_ids|inv_freq|num_batches_tracked)")
"""Names of buffers, which older releases of transformers saved with the weights and newer ones ignore."""

_RENAMED = (
    (re.compile(r"\bLayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"\bLayerNorm\.beta$"), "LayerNorm.bias"),
)
"""Old names in early BERT conversions, such as bert-base-uncased, and the names that transformers maps them to."""


def canonical(key: str) -> str:
    """The current name of a tensor in transformers."""
    for old, new in _RENAMED:
        key = old.sub(new, key)
    return key


def is_buffer(name: str) -> bool:
    """Whether a tensor is a buffer saved by older releases of transformers, not a weight."""
    return _BUFFER.fullmatch(name) is not None


def refuse_types(path: Path, odd: dict[str, list[str]]) -> None:
    """Reject a file with tensors whose dtype weights cannot have.

    Args:
      path: the file.
      odd: unsupported dtype -> names of its tensors.

    Raises:
      UserError: if `odd` is not empty.
    """
    if not odd:
        return
    told = "; ".join(f"{len(names)} of type {dtype} ({_some(names)})" for dtype, names in sorted(odd.items()))
    raise UserError(
        f"{path}: contains weights that are not floats: {told}. Expected {', '.join(FLOATS)}; quantized and complex "
        "weights are not supported. Use the original model in float32, float16 or bfloat16."
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
