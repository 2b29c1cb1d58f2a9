"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that skip padding. They differ only in the vocabulary.

BGE-M3, multilingual-e5 and most multilingual embedding models are XLM-RoBERTas.

Source: Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116; Martin et al. 2020, arXiv:1911.03894;
equivalent to transformers' `RobertaModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from jdistill.config import parse
from jdistill.student.encoders.base import Computing
from jdistill.student.encoders.hf_config import BASE, refuse, same_named
from jdistill.student.encoders.post_norm import (
    BERT_EMBEDDINGS,
    BERT_LAYER,
    PostNorm,
    PostNormConfig,
    positions_from_mask,
    table,
)
from jdistill.student.packing import Rows
from jdistill.student.weights import Weight

Kind = Literal["roberta", "xlm-roberta", "camembert"]

MODELS: Mapping[Kind, str] = {
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
}
"""`model_type`, which is also the kind -> class of transformers."""

_DEFAULTS: Mapping[str, Any] = {
    **BASE,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
"""Hugging Face's defaults for missing keys of `config.json`."""


class RobertaConfig(PostNormConfig):
    """Sizes, named as in Hugging Face's `config.json`; `kind` is its `model_type`."""

    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "base": {
            "num_hidden_layers": 12,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
        },
        "large": {
            "num_hidden_layers": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
        },
    }
    hf_prefix: ClassVar[str] = "roberta."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.position_ids",
        r"embeddings\.token_type_ids",
        r"pooler\..*",
        r"lm_head\..*",
        r"classifier\..*",
        r"qa_outputs\..*",
    )

    kind: Kind = "roberta"
    vocab_size: int = Field(default=50265, ge=1)
    """Vocabulary size."""
    max_position_embeddings: int = Field(default=514, ge=1)
    """Rows of the position embedding table: maximum input length + `pad_token_id` + 1."""
    type_vocab_size: int = Field(default=1, ge=1)
    """Rows of the token type table; single texts use the first."""
    layer_norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of layer norms."""
    pad_token_id: int = Field(default=1, ge=0)
    """Id of the tokenizer's padding token. Positions start at `pad_token_id + 1`."""

    @model_validator(mode="after")
    def _has_positions(self) -> Self:
        if self.max_position_embeddings <= self.pad_token_id + 1:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} leaves no position for a token, since "
                f"positions start at {self.pad_token_id + 1}. Make it larger."
            )
        return self

    @property
    def max_positions(self) -> int | None:
        """`max_position_embeddings` without positions that are never used."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @property
    def types(self) -> int | None:
        """`type_vocab_size`."""
        return self.type_vocab_size

    @property
    def epsilon(self) -> float:
        """`layer_norm_eps`."""
        return self.layer_norm_eps

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "RobertaConfig":
        """Ignores dropout rates; set `student.dropout`."""
        refuse(hf, {"position_embedding_type": ("absolute",), "is_decoder": (False,)}, where=where)
        kind = hf.get("model_type", "roberta")
        tokens = {} if kind == "roberta" else {"vocab_size": 30522}
        return parse(cls, {"kind": kind, **_DEFAULTS, **tokens, **same_named(cls, hf)}, where=where)

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of the class in `MODELS`."""
        return {"architectures": [MODELS[self.kind]], "model_type": self.kind, **self.model_dump(exclude={"kind"})}

    def weights(self) -> list[Weight]:
        """Embeddings, then layer by layer, without the pooler."""
        return table(BERT_EMBEDDINGS, self.num_hidden_layers, "encoder.layer.{}", BERT_LAYER)

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Roberta":
        """A `Roberta`."""
        return Roberta(self, computing, rngs=rngs)


class Roberta(PostNorm):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __init__(self, config: RobertaConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, computing, rngs=rngs)
        self.padding = config.pad_token_id

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings."""
        return self.run(rows, positions_from_mask(rows, self.padding), layers=layers, dropout_key=dropout_key)
