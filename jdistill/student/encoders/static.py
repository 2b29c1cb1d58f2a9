"""A static embedding: one trainable vector per token, no context. Averaged, it is the fastest student there is.

Source: sentence-transformers' StaticEmbedding, whose semantics and file this follows: no special tokens, no length
limit, the mean over all tokens, zeros for a text without any.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import UserError
from jdistill.student.attention import ChosenKernel
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.layers import dropout, lookup
from jdistill.student.weights import Weight
from jdistill.types import Tokens


class StaticConfig(EncoderConfig):
    """Size of the table."""

    special_tokens: ClassVar[bool] = False

    kind: Literal["static"] = "static"
    vocab_size: int = Field(default=30522, ge=1)
    """Tokens."""
    hidden_size: int = Field(default=256, ge=1)
    """Width of a token's vector."""

    @property
    def width(self) -> int:
        """`hidden_size`."""
        return self.hidden_size

    @property
    def depth(self) -> int:
        """0: there is only the table."""
        return 0

    @property
    def max_positions(self) -> int | None:
        """None: no limit."""
        return None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "StaticConfig":
        """From `vocab_size` and `hidden_size`; a static embedding has no `config.json` of its own."""
        try:
            return cls(vocab_size=hf["vocab_size"], hidden_size=hf["hidden_size"])
        except KeyError as error:
            raise UserError(f"{where}: has no {error}, so the size of its table of words is unknown.") from error

    def to_hf(self) -> dict[str, Any]:
        """The two sizes."""
        return {"vocab_size": self.vocab_size, "hidden_size": self.hidden_size}

    def weights(self) -> list[Weight]:
        """One row: the table."""
        return [Weight("embedding.weight", "words")]

    def make_module(
        self, *, dtype: jnp.dtype, dropout: float, rngs: nnx.Rngs, attention: ChosenKernel = "auto"
    ) -> "Static":
        """A `Static`."""
        return Static(self, dtype=dtype, dropout=dropout, rngs=rngs)


class Static(nnx.Module):
    """`Tokens [n, l] -> hidden [n, l, d]`: a lookup."""

    def __init__(self, config: StaticConfig, *, dtype: jnp.dtype, dropout: float, rngs: nnx.Rngs) -> None:
        self.dtype, self.dropout = dtype, dropout
        self.words = nnx.Param(rngs.params.normal((config.vocab_size, config.hidden_size), jnp.float32))

    def __call__(
        self, tokens: Tokens, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> list[Float[Array, "n l d"]]:
        """A row of the table for each token; there is no layer but 0."""
        hidden = dropout(lookup(self.words[...], tokens.ids, self.dtype), self.dropout, dropout_key)
        return [hidden for _ in layers]
