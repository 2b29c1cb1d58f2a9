"""DistilBERT: BERT without token types, and with different names.

Source: Sanh et al. 2019, arXiv:1910.01108; equivalent to transformers' `DistilBertModel`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from flax import nnx
from typing_extensions import override

from jdistill.config import parse
from jdistill.student.encoders.base import Computing, VocabSize, model_size
from jdistill.student.encoders.hf_config import BASE, same_named
from jdistill.student.encoders.post_norm import PostNorm, PostNormConfig, table
from jdistill.student.masked_lm import MaskedLM
from jdistill.student.weights import Weight

EPSILON = 1e-12
"""Epsilon of layer norms, fixed in DistilBERT."""

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

    model_types: ClassVar[tuple[str, ...]] = ("distilbert",)
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "base": model_size(layers=6, width=768, intermediate=3072, heads=12),
    }
    hf_prefix: ClassVar[str] = "distilbert."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.position_ids",
        r"(vocab_(transform|layer_norm|projector)|(pre_)?classifier|qa_outputs)\..*",
    )

    kind: Literal["distilbert"] = "distilbert"
    vocab_size: VocabSize = 30522

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "DistilBertConfig":
        # `sinusoidal_pos_embds` is ignored too: it says how positions were initialised.
        theirs = {ours: hf[name] for ours, name in NAMES.items() if name in hf}
        # DistilBERT's default for a missing `n_layers`, unlike BERT's.
        return parse(cls, {**BASE, "num_hidden_layers": 6, **same_named(cls, {**hf, **theirs})}, where=where)

    @override
    def to_hf(self) -> dict[str, Any]:
        named = {NAMES.get(name, name): value for name, value in self.model_dump(exclude={"kind"}).items()}
        return {"architectures": ["DistilBertModel"], "model_type": "distilbert", **named}

    @override
    def weights(self) -> list[Weight]:
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

    @override
    def masked_lm(self) -> MaskedLM:
        return MaskedLM(
            "DistilBertForMaskedLM",
            dense="vocab_transform",
            norm="vocab_layer_norm",
            bias="vocab_projector.bias",
            decoder="vocab_projector.weight",
            activation=self.hidden_act,
            epsilon=EPSILON,
        )

    @override
    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> PostNorm:
        return PostNorm(self, computing, epsilon=EPSILON, rngs=rngs)
