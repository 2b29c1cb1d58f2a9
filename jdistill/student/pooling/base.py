"""Base class of poolings with parameters: a config that initialises and applies them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from jdistill.config import Kind
from jdistill.papers import Papers
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.packing import TokenRows
from jdistill.student.weights import Weight

OWN_FILE = Path(__file__).parents[2] / "export/modules/jdistill_pooling.py"
"""The module file of our own poolings, which exports bring along."""

PoolingParams = dict[str, Any]
"""Parameters of one pooling: nested dicts, float32."""


class PoolingModule(Kind):
    """A pooling with parameters. A subclass adds `kind`, its options and the members below, all in one file."""

    sparse: ClassVar[bool] = False
    """Whether it gives a weight for each token of the vocabulary, most of them zero. Cannot be concatenated."""
    module: ClassVar[str] = ""
    """The equivalent torch class: one of sentence-transformers, or one of `module_file`."""
    module_file: ClassVar[Path | None] = None
    """File of plain torch that defines `module` and is copied into exports; None if sentence-transformers has the
    class. A pooling with neither cannot be exported."""

    papers: ClassVar[Papers] = ()
    """Works that the model card of a student with this pooling cites, whatever the options."""

    def cited(self) -> Papers:
        """Works that the model card cites: `papers`, and those behind the options chosen."""
        return self.papers

    def width(self, encoder: EncoderConfig) -> int:
        """Width of the pooled vectors."""
        raise NotImplementedError

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """Random initial parameters."""
        raise NotImplementedError

    def from_pretrained(
        self, encoder: EncoderConfig, tensors: Mapping[str, np.ndarray], *, where: str
    ) -> PoolingParams | None:
        """Initial parameters from the tensors of the model that a student starts from; None: use `init`.

        Args:
          encoder: the architecture of the model.
          tensors: all tensors of the model, as named in its file.
          where: the model's folder, for error messages.

        Raises:
          UserError: if the model lacks tensors that this pooling requires.
        """
        return None

    def weights(self) -> list[Weight]:
        """The weight table of `module`; empty if it has none, or if the weights are in the encoder's file."""
        return []

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """The `config.json` of `module`: the width of the token vectors and, as a rule, the options."""
        return {"token_width": encoder.width, **self.model_dump(mode="json", exclude={"kind"})}

    @classmethod
    def from_module(cls, config: Mapping[str, Any]) -> "PoolingModule":
        """The pooling that a `config.json` of `module` describes; raises KeyError if a key is missing."""
        return cls.model_validate({name: config[name] for name in cls.model_fields if name != "kind"})

    @classmethod
    def module_type(cls) -> str:
        """The class as `modules.json` names it; empty if there is none."""
        return f"{cls.module_file.stem}.{cls.module}" if cls.module_file is not None else ""

    def with_special_tokens(self, ids: Sequence[int]) -> "PoolingModule":
        """The same, with defaults that depend on the tokenizer's special tokens filled in."""
        return self

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: TokenRows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n e"]:
        """The pooled vectors.

        Args:
          hidden: one float32 vector per position.
          rows: which token of which text is at each position.
          params: structured as from `init`.
          encoder: the architecture of the encoder.
          encoder_params: its parameters, such as word embeddings for a tied decoder.
        """
        raise NotImplementedError
