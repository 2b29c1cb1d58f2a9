"""Shared parsing of `config.json`, such as rotary positions, for the formats of transformers 4 and 5."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from jdistill.config import UserError
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.rotary import Rope

LayerType = Literal["full_attention", "sliding_attention"]
"""Whether a layer attends to the whole text or to a window around each token."""

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish"]
"""`gelu` is exact, not the tanh approximation."""

DEFAULT_THETA = 10_000.0
"""transformers' default rotary base."""


BASE: Mapping[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
"""Hugging Face's defaults for missing keys of BERT-like models; the fields' defaults here are smaller students."""


def read_rope(parameters: Mapping[str, Any] | None, theta: float, *, where: str) -> Rope:
    """Rotary base and factor from `rope_parameters` (transformers 5) or `rope_scaling` (4).

    Args:
      parameters: the section for one type of layer; None if there is none.
      theta: default base.
      where: the file, for error messages.

    Raises:
      UserError: if scaling is neither default nor linear.
    """
    section = parameters or {}
    # `type` is the older name of `rope_type`.
    kind = section.get("rope_type", section.get("type", "default"))
    if kind not in ("default", "linear") or section.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise UserError(
            f"{where}: rotary positions are {dict(section)}; supported are rope_type default and linear, without "
            "partial_rotary_factor. Choose another model."
        )
    return Rope(
        float(section.get("rope_theta") or theta), float(section.get("factor", 1.0)) if kind == "linear" else 1.0
    )


def rope_scaling(factor: float) -> dict[str, Any] | None:
    """The `rope_scaling` section, which every release of transformers reads."""
    return None if factor == 1 else {"rope_type": "linear", "factor": factor}


def same_named(architecture: type[EncoderConfig], hf: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a `config.json` that are fields of the architecture, without nulls."""
    fields = set(architecture.model_fields) - {"kind", "size"}
    return {name: value for name, value in hf.items() if name in fields and value is not None}


def refuse(hf: Mapping[str, Any], plain: Mapping[str, Iterable[Any]], *, where: str) -> None:
    """Reject variants of an architecture that are not implemented.

    Args:
      hf: the `config.json`.
      plain: key -> supported values; missing keys and null are always accepted.
      where: the file, for error messages.

    Raises:
      UserError: if a key has an unsupported value.
    """
    wrong = [
        f"{key} is {hf[key]!r}" for key, values in plain.items() if hf.get(key) is not None and hf[key] not in values
    ]
    if wrong:
        raise UserError(f"{where}: {' and '.join(wrong)}, which is not supported. Choose another model.")


def check_heads(
    width: int, heads: int, *, shared: int | None = None, head_dim: int | None = None, divides: bool = False
) -> None:
    """Check that head sizes are valid.

    Args:
      width: hidden size.
      heads: query heads.
      shared: key-value heads; None for `heads`.
      head_dim: width of a head; None for `width / heads`.
      divides: whether transformers requires `heads` to divide `width` even if `head_dim` is given.

    Raises:
      ValueError: if sizes are not divisible.
    """
    # With a given `head_dim`, heads times `head_dim` need not be the hidden size.
    if (divides or head_dim is None) and width % heads:
        raise ValueError(f"hidden_size {width} is not divisible by {heads} attention heads. Make it a multiple.")
    wide = width // heads if head_dim is None else head_dim
    if wide % 2:
        raise ValueError(f"heads have width {wide}, but rotary positions need an even width.")
    if shared is not None and heads % shared:
        raise ValueError(f"{heads} attention heads are not divisible by {shared} key-value heads. Make it a multiple.")
