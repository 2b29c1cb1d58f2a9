"""What a pooling with parameters is: a configuration that can make them and knows how to use them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from jdistill.config import Config
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.packing import Rows
from jdistill.student.weights import Weight

PoolingParams = dict[str, Any]
"""Of one pooling: nested, float32."""


class PoolingModule(Config):
    """A subclass adds `kind`, its options and the members below, all in one file."""

    sparse: ClassVar[bool] = False
    """Whether it gives a number for each token of the vocabulary, most of them zero. Such a pooling stands alone."""
    module: ClassVar[str]
    """Class that computes the same in sentence-transformers: its own, or one of export/modules/jdistill_pooling.py."""

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
        """Initial parameters out of the tensors of the model that a student starts from; None: they are random.

        Args:
          encoder: the architecture of the model.
          tensors: all of the model's, as named in its file.
          where: the model's folder, for the message.
        Raises:
          UserError: if the model does not have what this pooling needs.
        """
        return None

    def weights(self) -> list[Weight]:
        """The weight table of `module`; empty where the encoder's file holds the weights."""
        raise NotImplementedError

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """The `config.json` of `module`."""
        raise NotImplementedError

    @classmethod
    def from_module(cls, config: Mapping[str, Any]) -> "PoolingModule":
        """What a `config.json` of `module` describes; raises KeyError if something is missing there."""
        raise NotImplementedError

    def with_special_tokens(self, ids: Sequence[int]) -> "PoolingModule":
        """The same with all left out that the tokenizer's special tokens decide, now that they are known."""
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
          hidden: one float32 vector per place.
          rows: what the places hold.
          params: as `init` makes them.
          encoder: the architecture of the encoder.
          encoder_params: its parameters, of which a pooling may use a table.
        """
        raise NotImplementedError
