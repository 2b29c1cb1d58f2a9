"""Static embedding: one trainable vector per token without context, averaged. The fastest kind of student.

Source: sentence-transformers' StaticEmbedding, with its semantics and file format: no special tokens, no length limit,
the mean over all tokens, zeros for a text without tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import UserError
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.layers import dropout, lookup
from jdistill.student.modules import normal
from jdistill.student.packing import Rows
from jdistill.student.weights import Weight


class StaticConfig(EncoderConfig):
    """Sizes of the embedding table."""

    special_tokens: ClassVar[bool] = False

    kind: Literal["static"] = "static"
    vocab_size: int = Field(default=30522, ge=1)
    """Vocabulary size."""
    hidden_size: int = Field(default=256, ge=1)
    """Hidden size."""

    @property
    def width(self) -> int:
        """`hidden_size`."""
        return self.hidden_size

    @property
    def depth(self) -> int:
        """0: there are no layers."""
        return 0

    @property
    def max_positions(self) -> int | None:
        """None: unlimited."""
        return None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "StaticConfig":
        """From `vocab_size` and `hidden_size`; static embeddings have no `config.json` in Hugging Face's formats."""
        try:
            return cls(vocab_size=hf["vocab_size"], hidden_size=hf["hidden_size"])
        except KeyError as error:
            raise UserError(f"{where}: has no {error}, which is the size of the embedding table.") from error

    def to_hf(self) -> dict[str, Any]:
        """The two sizes."""
        return {"vocab_size": self.vocab_size, "hidden_size": self.hidden_size}

    def weights(self) -> list[Weight]:
        """One row: the embedding table."""
        return [Weight("embedding.weight", "words")]

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Static":
        """A `Static`."""
        return Static(self, computing, rngs=rngs)


class Static(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]`: a lookup."""

    def __init__(self, config: StaticConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.words = nnx.Param(normal(rngs, 1.0, config.vocab_size, config.hidden_size))

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """The embedding of each token; the only layer is 0."""
        hidden = lookup(self.words[...], rows.ids, self.computing.dtype)
        return dict.fromkeys(layers, dropout(hidden, self.computing.dropout, dropout_key))
