"""Whether all weights of a loaded teacher came from its files, and are numbers.

transformers fills parameters that a file lacks at random, other ones in each process, and passes over tensors that its
class does not have; sentence-transformers does not ask which. Here it is asked. What a file lacks is filled with NaN,
so that a vector shows whether it depends on it: a pooler that is not used may be missing, and nothing else.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from jdistill.config import UserError
from jdistill.folders.names import is_buffer

_SHOWN = 6
"""Names of tensors in a message."""


class Loaded(NamedTuple):
    """One model of transformers, and what of its files did not fit it."""

    model: Any
    missing: list[str]
    """Parameters that no file holds."""
    unknown: list[str]
    """Tensors of the files that belong to parts which the model has, but which the model does not have."""


@contextmanager
def recorded_loading() -> Iterator[list[Loaded]]:
    """While it lasts, every model that transformers loads is noted in the list that this gives."""
    from transformers import PreTrainedModel

    found: list[Loaded] = []
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
    """Refuse a teacher whose vectors depend on what its files do not hold, or whose files hold what it passes over.

    Args:
      model: the SentenceTransformer.
      loaded: what `recorded_loading` noted of it; missing parameters are set to NaN.
      where: the teacher's key and model, for the message.
      hint: what else may be done, for the message.

    Raises:
      UserError: naming the first of the tensors.
    """
    for part in loaded:
        if part.unknown:
            raise UserError(
                f"{where}: its weights hold {len(part.unknown)} tensors that a {type(part.model).__name__} does not "
                f"have ({_first(part.unknown)}): they are another model's. Check that config.json and weights belong "
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
                f"{where}: its weights lack {len(missing)} tensors ({_first(missing)}), which would be random numbers, "
                f"others at every start. Copy or download all files of the weights.{hint}"
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
            f"{where}: {len(bad)} of its tensors hold NaN or infinite numbers ({_first(bad)}). Copy or download the "
            "weights again; if they are whole in float32, set precision: float32 or bfloat16."
        )


def _unknown(model: Any, names: Any) -> list[str]:
    """Of the tensors that were passed over, those of parts which the model has: heads of other tasks do not count."""
    if not type(model).__module__.startswith("transformers."):
        return []  # code of the model's own knows what it leaves out
    parts = {name.partition(".")[0] for name, _ in model.named_parameters()}
    bare = {name: name.removeprefix(f"{model.base_model_prefix}.") for name in names}
    return sorted(name for name, rest in bare.items() if rest.partition(".")[0] in parts and not is_buffer(rest))


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
