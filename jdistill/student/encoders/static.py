"""Static embedding: one trainable vector per token without context, averaged. The fastest kind of student.

Source: sentence-transformers' StaticEmbedding, with its semantics and file format: no special tokens, no length limit,
the mean over all tokens, zeros for a text without tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Float
from typing_extensions import override

from jdistill.config import UserError
from jdistill.student.encoders.base import Computing, EncoderConfig, HiddenSize, VocabSize
from jdistill.student.layers import dropout, lookup
from jdistill.student.modules import normal
from jdistill.student.packing import TokenRows
from jdistill.student.weights import Weight


class StaticConfig(EncoderConfig):
    """Sizes of the embedding table."""

    special_tokens: ClassVar[bool] = False

    kind: Literal["static"] = "static"
    vocab_size: VocabSize = 30522
    hidden_size: HiddenSize = 256

    @property
    @override
    def depth(self) -> int:
        return 0

    @property
    @override
    def max_positions(self) -> int | None:
        return None

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "StaticConfig":
        """From `vocab_size` and `hidden_size`; static embeddings have no `config.json` in Hugging Face's formats."""
        try:
            return cls(vocab_size=hf["vocab_size"], hidden_size=hf["hidden_size"])
        except KeyError as error:
            raise UserError(f"{where}: has no {error}, which is the size of the embedding table.") from error

    @override
    def to_hf(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "hidden_size": self.hidden_size}

    @override
    def weights(self) -> list[Weight]:
        return [Weight("embedding.weight", "words")]

    @override
    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Static":
        return Static(self, computing, rngs=rngs)


class Static(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]`: a lookup."""

    def __init__(self, config: StaticConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        # Standard deviation 1, as torch's `nn.EmbeddingBag`, which StaticEmbedding is.
        self.words = nnx.Param(normal(rngs, 1.0, config.vocab_size, config.hidden_size))

    def __call__(
        self, rows: TokenRows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """The embedding of each token; the only layer is 0."""
        hidden = lookup(self.words[...], rows.ids, self.computing.dtype)
        return dict.fromkeys(layers, dropout(hidden, self.computing.dropout, dropout_key))
