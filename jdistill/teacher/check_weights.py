"""Checks that all weights of a loaded teacher come from its files and are finite.

transformers initializes parameters missing in the files at random, and ignores tensors unknown to its class;
sentence-transformers does not check for either. Here, missing parameters are set to NaN, which shows whether vectors
depend on them: an unused pooler may be missing, but nothing else.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from jdistill.config import UserError
from jdistill.folders.names import is_buffer

_SHOWN = 6
"""Maximum number of tensor names in a message."""


class Loaded(NamedTuple):
    """A transformers model, and how its files differ from it."""

    model: Any
    missing: list[str]
    """Parameters missing in the files."""
    unknown: list[str]
    """Tensors of the files that the model lacks, though it has the submodule they belong to."""


@contextmanager
def recorded_loading() -> Iterator[list[Loaded]]:
    """Context manager that records every model loaded by transformers in the list it yields."""
    from transformers import PreTrainedModel

    found: list[Loaded] = []
    # As the class has it, a classmethod object: attribute access would give a bound method, which could not be put
    # back.
    original = PreTrainedModel.__dict__["from_pretrained"]

    @functools.wraps(original.__func__)
    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        wanted = options.pop("output_loading_info", False)
        model, info = original.__func__(cls, *arguments, output_loading_info=True, **options)
        found.append(Loaded(model, sorted(info["missing_keys"]), _unknown(model, info["unexpected_keys"])))
        return (model, info) if wanted else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield found
    finally:
        PreTrainedModel.from_pretrained = original


def check_complete(model: Any, loaded: list[Loaded], *, where: str, hint: str = "") -> None:
    """Refuse a teacher whose vectors depend on missing weights, or whose files have unknown weights.

    Args:
      model: the SentenceTransformer.
      loaded: models recorded by `recorded_loading`; their missing parameters are set to NaN.
      where: the teacher's key and model, for the message.
      hint: additional advice for the message.

    Raises:
      UserError: naming the first of the tensors.
    """
    for part in loaded:
        if part.unknown:
            raise UserError(
                f"{where}: its weights have {len(part.unknown)} tensors unknown to {type(part.model).__name__} "
                f"({_first(part.unknown)}), so they belong to another model. Check that config.json and weights belong "
                f"together.{hint}"
            )
    missing = [name for part in loaded for name in part.missing]
    if not missing:
        return
    for part in loaded:
        parameters = dict(part.model.named_parameters())
        for name in part.missing:
            if name in parameters and parameters[name].is_floating_point():
                parameters[name].data.fill_(float("nan"))
    for encode in (model.encode_query, model.encode_document):
        if not np.isfinite(encode(["a text"], prompt="", show_progress_bar=False)).all():
            raise UserError(
                f"{where}: its weights lack {len(missing)} tensors ({_first(missing)}), which would be initialized at "
                f"random. Copy or download all weight files.{hint}"
            )


def check_finite(model: Any, *, where: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
      UserError: naming the first of the tensors.
    """
    import torch

    bad = [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]
    if bad:
        raise UserError(
            f"{where}: {len(bad)} of its tensors contain NaN or infinite numbers ({_first(bad)}). Copy or download the "
            "weights again; if they are finite in float32, set precision: float32 or bfloat16."
        )


def _unknown(model: Any, names: Any) -> list[str]:
    """The ignored tensors that belong to submodules of the model; heads of other tasks do not count."""
    if not type(model).__module__.startswith("transformers."):
        return []  # custom code may ignore tensors on purpose
    parts = {name.partition(".")[0] for name, _ in model.named_parameters()}
    bare = {name: name.removeprefix(f"{model.base_model_prefix}.") for name in names}
    return sorted(name for name, rest in bare.items() if rest.partition(".")[0] in parts and not is_buffer(rest))


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
