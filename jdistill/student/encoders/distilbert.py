"""DistilBERT: BERT without token types, and with different names.

Source: Sanh et al. 2019, arXiv:1910.01108; equivalent to transformers' `DistilBertModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import parse
from jdistill.student.encoders.base import Computing
from jdistill.student.encoders.hf_config import BASE, same_named
from jdistill.student.encoders.post_norm import PostNorm, PostNormConfig, table
from jdistill.student.packing import Rows
from jdistill.student.weights import Weight

NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}
"""Field -> its name in DistilBERT's `config.json`; the others are the same."""


class DistilBertConfig(PostNormConfig):
    """Sizes of a DistilBERT, named as BERT's."""

    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "base": {
            "num_hidden_layers": 6,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
        },
    }
    hf_prefix: ClassVar[str] = "distilbert."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.position_ids",
        r"vocab_(transform|layer_norm|projector)\..*",
        r"(pre_)?classifier\..*",
        r"qa_outputs\..*",
    )

    kind: Literal["distilbert"] = "distilbert"
    vocab_size: int = Field(default=30522, ge=1)
    """Vocabulary size."""

    @property
    def max_positions(self) -> int | None:
        """`max_position_embeddings`."""
        return self.max_position_embeddings

    @property
    def epsilon(self) -> float:
        """Fixed in DistilBERT."""
        return 1e-12

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "DistilBertConfig":
        """Ignores dropout rates (set `student.dropout`) and `sinusoidal_pos_embds`, an initialisation."""
        theirs = {ours: hf[name] for ours, name in NAMES.items() if name in hf}
        return parse(cls, {**BASE, "num_hidden_layers": 6, **same_named(cls, {**hf, **theirs})}, where=where)

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `DistilBertModel`."""
        named = {NAMES.get(name, name): value for name, value in self.model_dump(exclude={"kind"}).items()}
        return {"architectures": ["DistilBertModel"], "model_type": "distilbert", **named}

    def weights(self) -> list[Weight]:
        """Embeddings, then layer by layer."""
        embeddings = {"word_embeddings": "words", "position_embeddings": "positions"}
        layer = {
            "attention.q_lin": "query",
            "attention.k_lin": "key",
            "attention.v_lin": "value",
            "attention.out_lin": "out",
            "sa_layer_norm": "attention_norm",
            "ffn.lin1": "up",
            "ffn.lin2": "down",
            "output_layer_norm": "output_norm",
        }
        return table(embeddings, self.num_hidden_layers, "transformer.layer.{}", layer)

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "DistilBert":
        """A `DistilBert`."""
        return DistilBert(self, computing, rngs=rngs)


class DistilBert(PostNorm):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings."""
        return self.run(rows, rows.positions, layers=layers, dropout_key=dropout_key)
