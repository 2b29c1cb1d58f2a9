"""Base class of poolings with parameters: a config that initialises and applies them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from jdistill.config import Config
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.packing import Rows
from jdistill.student.weights import Weight

PoolingParams = dict[str, Any]
"""Parameters of one pooling: nested dicts, float32."""


class PoolingModule(Config):
    """A pooling with parameters. A subclass adds `kind`, its options and the members below, all in one file."""

    sparse: ClassVar[bool] = False
    """Whether it gives a weight for each token of the vocabulary, most of them zero. Cannot be concatenated."""
    module: ClassVar[str]
    """The equivalent torch class, in sentence-transformers or in export/modules/jdistill_pooling.py."""

    kind: str

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
        """The weight table of `module`; empty if the weights are in the encoder's file."""
        raise NotImplementedError

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """The `config.json` of `module`."""
        raise NotImplementedError

    @classmethod
    def from_module(cls, config: Mapping[str, Any]) -> "PoolingModule":
        """The pooling that a `config.json` of `module` describes; raises KeyError if a key is missing."""
        raise NotImplementedError

    def with_special_tokens(self, ids: Sequence[int]) -> "PoolingModule":
        """The same, with defaults that depend on the tokenizer's special tokens filled in."""
        return self

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: Rows,
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
