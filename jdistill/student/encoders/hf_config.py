"""What the `config.json` of encoders with rotary positions have in common, in the forms of transformers 4 and 5."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jdistill.config import UserError
from jdistill.student.encoders.base import EncoderConfig

LayerType = Literal["full_attention", "sliding_attention"]
"""Whether a layer attends the whole text or a window around each place."""

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish"]
"""`gelu` is the exact one."""

DEFAULT_THETA = 10_000.0
"""Base of the rotary wavelengths that transformers takes where neither file nor architecture says it."""


BASE: Mapping[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
"""What a `config.json` of BERT and its kin means that leaves these out; ours mean smaller students."""


class Rope(NamedTuple):
    """Rotary positions, as `rotary.turn` takes them."""

    theta: float
    factor: float


def read_rope(parameters: Mapping[str, Any] | None, theta: float, *, where: str) -> Rope:
    """Rotary positions out of `rope_parameters` (transformers 5) or `rope_scaling` (4).

    Args:
      parameters: the section, of one kind of layer; None where there is none.
      theta: where the section does not say it.
      where: the file, for the message.

    Raises:
      UserError: if they are scaled in another way than linearly.
    """
    section = parameters or {}
    kind = section.get("rope_type", section.get("type", "default"))
    if kind not in ("default", "linear") or section.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise UserError(
            f"{where}: rotary positions are {dict(section)}; only rope_type default and linear, of whole heads, are "
            "supported."
        )
    return Rope(
        float(section.get("rope_theta") or theta), float(section.get("factor", 1.0)) if kind == "linear" else 1.0
    )


def rope_scaling(factor: float) -> dict[str, Any] | None:
    """The section of that name, which every release of transformers reads."""
    return None if factor == 1 else {"rope_type": "linear", "factor": factor}


def same_named(architecture: type[EncoderConfig], hf: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a `config.json` whose names are fields of ours; those that are null are left out."""
    fields = set(architecture.model_fields) - {"kind", "size"}
    return {name: value for name, value in hf.items() if name in fields and value is not None}


def refuse(hf: Mapping[str, Any], plain: Mapping[str, Iterable[Any]], *, where: str) -> None:
    """Refuse variants of an architecture that are not implemented.

    Args:
      hf: the `config.json`.
      plain: key -> values that mean the plain variant; a key may be missing, or null.
      where: the file, for the message.

    Raises:
      UserError: naming every key with another value.
    """
    wrong = [
        f"{key} is {hf[key]!r}" for key, values in plain.items() if hf.get(key) is not None and hf[key] not in values
    ]
    if wrong:
        raise UserError(f"{where}: {' and '.join(wrong)}, which is a variant that is not supported.")


def check_heads(
    width: int, heads: int, *, shared: int | None = None, head_dim: int | None = None, divides: bool = False
) -> None:
    """Refuse heads that cannot be.

    Args:
      width: of a token's vector.
      heads: of queries.
      shared: heads of keys and values; None for as many.
      head_dim: width of a head; None where heads share the width equally.
      divides: whether transformers wants the width to divide over the heads even where `head_dim` is given.

    Raises:
      ValueError: saying what does not divide.
    """
    if (divides or head_dim is None) and width % heads:
        raise ValueError(f"hidden_size {width} does not divide over {heads} attention heads. Make it a multiple.")
    wide = width // heads if head_dim is None else head_dim
    if wide % 2:
        raise ValueError(f"heads are {wide} wide, but rotary positions turn pairs. Make it an even number.")
    if shared is not None and heads % shared:
        raise ValueError(f"{heads} attention heads do not divide over {shared} key-value heads. Make it a multiple.")


def check_layer_types(types: Sequence[LayerType] | None, depth: int, *, window: int | None) -> None:
    """Refuse a list of layers that does not fit.

    Args:
      types: of each layer; None where the architecture has its own pattern.
      depth: number of layers.
      window: of sliding layers; None where there is none.

    Raises:
      ValueError: saying what does not fit.
    """
    if types is not None and len(types) != depth:
        raise ValueError(f"layer_types lists {len(types)} layers, but num_hidden_layers is {depth}. Make them agree.")
    if types is not None and window is None and "sliding_attention" in types:
        raise ValueError("layer_types has sliding layers, but sliding_window is missing. Give it.")
