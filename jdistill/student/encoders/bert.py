"""BERT: post-norm transformer encoder with absolute positions.

Source: Devlin et al. 2019, arXiv:1810.04805; equivalent to transformers' `BertModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import parse
from jdistill.student.encoders.base import Computing
from jdistill.student.encoders.hf_config import BASE, refuse, same_named
from jdistill.student.encoders.post_norm import BERT_EMBEDDINGS, BERT_LAYER, PostNorm, PostNormConfig, table
from jdistill.student.packing import Rows
from jdistill.student.weights import Weight

SIZES: dict[str, dict[str, int]] = {
    name: {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
    }
    for name, layers, width, inner, heads in (
        ("tiny", 2, 128, 512, 2),
        ("mini", 4, 256, 1024, 4),
        ("small", 4, 512, 2048, 8),
        ("medium", 8, 512, 2048, 8),
        ("base", 12, 768, 3072, 12),
        ("minilm-l6", 6, 384, 1536, 12),
        ("minilm-l12", 12, 384, 1536, 12),
    )
}
"""Turc et al. 2019, arXiv:1908.08962, table 1; Wang et al. 2020, arXiv:2002.10957, and its 6-layer version."""


class BertConfig(PostNormConfig):
    """Sizes of a BERT, named as in Hugging Face's `config.json`."""

    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = SIZES
    hf_prefix: ClassVar[str] = "bert."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.position_ids",
        r"embeddings\.token_type_ids",
        r"pooler\..*",
        r"cls\..*",
        r"classifier\..*",
        r"qa_outputs\..*",
    )

    kind: Literal["bert"] = "bert"
    vocab_size: int = Field(default=30522, ge=1)
    """Vocabulary size."""
    type_vocab_size: int = Field(default=2, ge=1)
    """Rows of the token type table; single texts use the first."""
    layer_norm_eps: float = Field(default=1e-12, gt=0)
    """Epsilon of layer norms."""

    @property
    def max_positions(self) -> int | None:
        """`max_position_embeddings`."""
        return self.max_position_embeddings

    @property
    def types(self) -> int | None:
        """`type_vocab_size`."""
        return self.type_vocab_size

    @property
    def epsilon(self) -> float:
        """`layer_norm_eps`."""
        return self.layer_norm_eps

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "BertConfig":
        """Ignores dropout rates; set `student.dropout`."""
        refuse(hf, {"position_embedding_type": ("absolute",), "is_decoder": (False,)}, where=where)
        return parse(cls, {**BASE, **same_named(cls, hf)}, where=where)

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `BertModel`."""
        return {"architectures": ["BertModel"], "model_type": "bert", **self.model_dump(exclude={"kind"})}

    def weights(self) -> list[Weight]:
        """Embeddings, then layer by layer, without the pooler."""
        return table(BERT_EMBEDDINGS, self.num_hidden_layers, "encoder.layer.{}", BERT_LAYER)

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Bert":
        """A `Bert`."""
        return Bert(self, computing, rngs=rngs)


class Bert(PostNorm):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings."""
        # As in BERT, positions count from the start of the row, including padding on the left.
        return self.run(rows, rows.positions, layers=layers, dropout_key=dropout_key)
