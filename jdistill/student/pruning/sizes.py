"""The sizes of an encoder before and after pruning, and checks that they are compatible."""

from typing import Any, NamedTuple

from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.student.encoders import EncoderConfig
from jdistill.student.pruning.config import PruneConfig


class Sizes(NamedTuple):
    """Sizes of an encoder with layers."""

    width: int
    """Hidden size."""
    heads: int
    """Query heads."""
    shared: int
    """Key-value heads."""
    head_width: int
    """Width of each head."""
    intermediate: int
    """Feed-forward neurons."""


def sizes_of(encoder: Any) -> Sizes:
    """The sizes of an encoder with layers."""
    heads = encoder.num_attention_heads
    # Without this field heads divide the width equally; without `num_key_value_heads` no keys are shared.
    head_width = getattr(encoder, "head_dim", None) or encoder.hidden_size // heads
    shared = getattr(encoder, "num_key_value_heads", None) or heads
    return Sizes(encoder.hidden_size, heads, shared, head_width, encoder.intermediate_size)


def cut_encoder(encoder: EncoderConfig, cuts: PruneConfig) -> EncoderConfig:
    """The encoder's config with its new sizes. With `vocabulary.min_count` the vocabulary size is left unchanged.

    Raises:
      UserError: if a size is larger than before, or the sizes are incompatible.
    """
    changes = _vocabulary(encoder, cuts) | (_sizes(encoder, cuts) if cuts.resizes else {})
    try:
        # `model_copy` would skip the encoder's own checks, such as that heads divide the width.
        return type(encoder).model_validate(encoder.model_dump() | changes)
    except ValidationError as error:
        said = "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
        raise UserError(f"prune: the model cannot be pruned to these sizes: {said}") from error


def _vocabulary(encoder: EncoderConfig, cuts: PruneConfig) -> dict[str, int]:
    size = None if cuts.vocabulary is None else cuts.vocabulary.size
    if size is None:
        return {}
    _smaller("vocabulary.size", size, encoder.vocab_size, "tokens")
    return {"vocab_size": size}


def _sizes(encoder: EncoderConfig, cuts: PruneConfig) -> dict[str, int]:
    if not encoder.depth:
        return _of_table(encoder, cuts)
    before = sizes_of(encoder)
    changes: dict[str, int] = {}
    if cuts.width is not None:
        _smaller("width.to", cuts.width.to, before.width, "dimensions")
        changes["hidden_size"] = cuts.width.to
    if cuts.intermediate is not None:
        _smaller("intermediate", cuts.intermediate, before.intermediate, "neurons in each layer")
        changes["intermediate_size"] = cuts.intermediate
    return changes | _heads(encoder, cuts, before)


def _of_table(encoder: EncoderConfig, cuts: PruneConfig) -> dict[str, int]:
    for name, value in (("heads", cuts.heads), ("intermediate", cuts.intermediate)):
        if value is not None:
            raise UserError(f"prune.{name}: is {value}, but a static embedding has no layers. Leave it out.")
    assert cuts.width is not None
    if cuts.width.by == "importance":
        raise UserError(
            "prune.width.by: is 'importance', but static embeddings support only pca. Set it to pca, or leave it out."
        )
    _smaller("width.to", cuts.width.to, encoder.width, "dimensions")
    return {"hidden_size": cuts.width.to}


def _heads(encoder: EncoderConfig, cuts: PruneConfig, before: Sizes) -> dict[str, int]:
    fields = type(encoder).model_fields
    width = before.width if cuts.width is None else cuts.width.to
    heads = before.heads if cuts.heads is None else cuts.heads
    _smaller("heads", heads, before.heads, "heads in each layer")
    if "head_dim" not in fields:  # heads divide the hidden size equally
        if width % before.head_width:
            near = max(1, width // before.head_width) * before.head_width
            raise UserError(
                f"prune.width.to: is {width}, but must be a multiple of the head width {before.head_width} of this "
                f"{encoder.kind}. Choose a multiple, such as {near}."
            )
        if cuts.heads is not None and heads * before.head_width != width:
            raise UserError(
                f"prune.heads: is {heads}, but the heads of this {encoder.kind} divide the hidden size equally, "
                f"{before.head_width} each, so {heads} heads need a width of {heads * before.head_width}. Set "
                f"prune.width.to to that and leave heads out, or set prune.intermediate instead."
            )
        return {"num_attention_heads": width // before.head_width}
    # Stated, since its default would follow from the new sizes.
    changes = {"head_dim": before.head_width, "num_attention_heads": heads}
    if "num_key_value_heads" in fields:
        changes["num_key_value_heads"] = _shared(heads, before)
    return changes


def _shared(heads: int, before: Sizes) -> int:
    """Key-value heads: as many as before with fewer query heads each, or fewer with as many query heads each."""
    group = before.heads // before.shared
    if group == 1:
        return heads
    if heads % before.shared == 0:
        return before.shared
    if heads % group == 0:
        return heads // group
    raise UserError(
        f"prune.heads: is {heads}, but each of the {before.shared} key-value heads serves {group} query heads. "
        f"Choose a multiple of {before.shared}, to keep all key-value heads, or of {group}, to keep fewer of them."
    )


def _smaller(name: str, value: int, before: int, what: str) -> None:
    if value > before:
        raise UserError(f"prune.{name}: is {value}, but the model has {before} {what}. Choose a smaller number.")
