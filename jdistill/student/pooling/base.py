"""What a pooling with parameters is: a configuration that can make them and knows how to use them."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from jdistill.config import Config
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.packing import Rows

PoolingParams = dict[str, Array]
"""Of one pooling, float32."""


class PoolingModule(Config):
    """A subclass adds `kind`, its options and the members below, all in one file."""

    kind: str

    def width(self, encoder: EncoderConfig) -> int:
        """Width of the pooled vectors."""
        raise NotImplementedError

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """Initial parameters."""
        raise NotImplementedError

    def __call__(
        self, hidden: Float[Array, "r p d"], rows: Rows, params: PoolingParams, encoder: Mapping[str, Any]
    ) -> Float[Array, "n e"]:
        """The pooled vectors.

        Args:
          hidden: one float32 vector per place.
          rows: what the places hold.
          params: as `init` makes them.
          encoder: the encoder's parameters, of which a pooling may use a table.
        """
        raise NotImplementedError
