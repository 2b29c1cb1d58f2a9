"""Names and types of tensors in a model's files: today's names, what is no weight, which types weights have."""

import re
from pathlib import Path

from jdistill.config import UserError

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of numbers, as safetensors names them, that weights may have."""

_BUFFER = re.compile(r"(.*\.)?(position_ids|token_type_ids|inv_freq|num_batches_tracked)")
"""Names of tensors that are no weights: what older releases of transformers stored beside them, and newer ones skip."""

_RENAMED = (
    (re.compile(r"\bLayerNorm\.gamma$"), "LayerNorm.weight"),
    (re.compile(r"\bLayerNorm\.beta$"), "LayerNorm.bias"),
)
"""Names that BERT's first conversions have, such as bert-base-uncased's; transformers renames them just so."""


def canonical(key: str) -> str:
    """The name that transformers gives a tensor today."""
    for old, new in _RENAMED:
        key = old.sub(new, key)
    return key


def is_buffer(name: str) -> bool:
    """Whether a tensor is no weight but a buffer that older releases of transformers stored."""
    return _BUFFER.fullmatch(name) is not None


def refuse_types(path: Path, odd: dict[str, list[str]]) -> None:
    """Refuse a file with tensors of types that weights do not have.

    Args:
      path: the file.
      odd: type -> names of its tensors.

    Raises:
      UserError: if there are any.
    """
    if not odd:
        return
    told = "; ".join(f"{len(names)} of type {dtype} ({_some(names)})" for dtype, names in sorted(odd.items()))
    raise UserError(
        f"{path}: holds tensors that are no float weights: {told}. Expected {', '.join(FLOATS)}: quantised and complex "
        "weights are not supported. Give the model's own folder in float32, float16 or bfloat16."
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
