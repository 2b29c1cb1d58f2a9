"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that skip padding. They differ only in the vocabulary.

BGE-M3, multilingual-e5 and most multilingual embedding models are XLM-RoBERTas.

Source: Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116; Martin et al. 2020, arXiv:1911.03894;
equivalent to transformers' `RobertaModel`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from flax import nnx
from jaxtyping import Array, Int
from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import parse
from jdistill.student.encoders.base import Computing, Epsilon, TypeCount, VocabSize, model_size
from jdistill.student.encoders.hf_config import BASE, refuse, same_named
from jdistill.student.encoders.post_norm import (
    BERT_EMBEDDINGS,
    BERT_LAYER,
    PostNorm,
    PostNormConfig,
    positions_from_mask,
    table,
)
from jdistill.student.masked_lm import MaskedLM
from jdistill.student.packing import TokenRows
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

    model_types: ClassVar[tuple[str, ...]] = tuple(MODELS)
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "base": model_size(layers=12, width=768, intermediate=3072, heads=12),
        "large": model_size(layers=24, width=1024, intermediate=4096, heads=16),
    }
    hf_prefix: ClassVar[str] = "roberta."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.(position_ids|token_type_ids)",
        r"(pooler|lm_head|classifier|qa_outputs)\..*",
    )

    kind: Kind = "roberta"
    vocab_size: VocabSize = 50265
    max_position_embeddings: int = Field(default=514, ge=1)
    """Rows of the position embedding table: maximum input length + `pad_token_id` + 1."""
    type_vocab_size: TypeCount = 1
    layer_norm_eps: Epsilon = 1e-5
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
    @override
    def max_positions(self) -> int | None:
        # Tokens never have positions 0 to `pad_token_id`.
        return self.max_position_embeddings - self.pad_token_id - 1

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "RobertaConfig":
        refuse(hf, {"position_embedding_type": ("absolute",), "is_decoder": (False,)}, where=where)
        kind = hf.get("model_type", "roberta")
        # Their transformers classes have BERT's vocabulary size as a default.
        tokens = {} if kind == "roberta" else {"vocab_size": 30522}
        return parse(cls, {"kind": kind, **_DEFAULTS, **tokens, **same_named(cls, hf)}, where=where)

    @override
    def to_hf(self) -> dict[str, Any]:
        return {"architectures": [MODELS[self.kind]], "model_type": self.kind, **self.model_dump(exclude={"kind"})}

    @override
    def weights(self) -> list[Weight]:
        return table(BERT_EMBEDDINGS, self.num_hidden_layers, "encoder.layer.{}", BERT_LAYER)

    @override
    def masked_lm(self) -> MaskedLM:
        return MaskedLM(
            f"{MODELS[self.kind].removesuffix('Model')}ForMaskedLM",
            dense="lm_head.dense",
            norm="lm_head.layer_norm",
            bias="lm_head.bias",
            decoder="lm_head.decoder.weight",
            activation="gelu",  # independent of the encoder's
            epsilon=self.layer_norm_eps,
        )

    @override
    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Roberta":
        return Roberta(self, computing, rngs=rngs)


class Roberta(PostNorm):
    """As BERT, but padding takes no position."""

    def __init__(self, config: RobertaConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, computing, epsilon=config.layer_norm_eps, types=config.type_vocab_size, rngs=rngs)
        self.padding = config.pad_token_id

    @override
    def positions(self, rows: TokenRows) -> Int[Array, "r p"]:
        return positions_from_mask(rows, self.padding)
