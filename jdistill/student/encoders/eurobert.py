"""EuroBERT: a bidirectional Llama with pre-norm, RMS norms, rotary positions, grouped-query attention, and gates.

Source: Boizard et al. 2025, arXiv:2503.05500; equivalent to transformers' `EuroBertModel`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import parse
from jdistill.student.encoders.base import Epsilon, HeadCount, HiddenSize, InnerSize, LayerCount, MaxLength, VocabSize
from jdistill.student.encoders.hf_config import (
    DEFAULT_THETA,
    Activation,
    check_heads,
    read_rope,
    rope_scaling,
    same_named,
)
from jdistill.student.encoders.pre_norm import LLAMA_LAYER, LayerOptions, PreNormConfig, llama_table
from jdistill.student.modules import RMSNorm
from jdistill.student.rotary import Rope
from jdistill.student.weights import Weight


class EuroBertConfig(PreNormConfig):
    """Sizes of a EuroBERT, named as in Hugging Face's `config.json`."""

    model_types: ClassVar[tuple[str, ...]] = ("eurobert",)
    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"lm_head\..*", r"dense\..*", r"classifier\..*")

    kind: Literal["eurobert"] = "eurobert"
    vocab_size: VocabSize = 128256
    hidden_size: HiddenSize = 768
    num_hidden_layers: LayerCount = 12
    num_attention_heads: HeadCount = 12
    num_key_value_heads: int | None = Field(default=None, ge=1)
    """Key-value heads, each shared by a group of query heads. Default: `num_attention_heads`."""
    head_dim: int | None = Field(default=None, ge=2)
    """Width of a head. Default: `hidden_size / num_attention_heads`."""
    intermediate_size: InnerSize = 3072
    max_position_embeddings: MaxLength = 8192
    rope_theta: float = Field(default=250_000.0, gt=0)
    """Rotary base."""
    rope_factor: float = Field(default=1.0, gt=0)
    """Positions are divided by this factor (linear scaling)."""
    hidden_act: Activation = "silu"
    """Activation of the feed-forward gate."""
    rms_norm_eps: Epsilon = 1e-5
    mlp_bias: bool = False
    """Whether feed-forward matrices have biases."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        check_heads(self.hidden_size, heads, shared=shared, head_dim=self.head_dim, divides=True)
        return self

    @override
    def norm(self, width: int) -> RMSNorm:
        return RMSNorm(width, self.rms_norm_eps)

    @override
    def layer(self, number: int) -> LayerOptions:
        return LayerOptions(
            kv_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_attention_heads,
            activation=self.hidden_act,
            rope=Rope(self.rope_theta, self.rope_factor),
            attention_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
        )

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "EuroBertConfig":
        # What transformers assumes where a file has none, unlike the field's default.
        theta = hf.get("rope_theta") or DEFAULT_THETA
        rope = read_rope(hf.get("rope_scaling") or hf.get("rope_parameters"), theta, where=where)
        given = same_named(cls, hf) | {"rope_theta": rope.theta, "rope_factor": rope.factor}
        return parse(cls, given, where=where)._resolved()

    @override
    def to_hf(self) -> dict[str, Any]:
        plain = self._resolved().model_dump(exclude={"kind", "rope_factor"})
        named = {"architectures": ["EuroBertModel"], "model_type": "eurobert"}
        return {**named, **plain, "rope_scaling": rope_scaling(self.rope_factor), "pad_token_id": None}

    def _resolved(self) -> "EuroBertConfig":
        options = self.layer(0)
        return self.model_copy(update={"num_key_value_heads": options.kv_heads, "head_dim": options.head_dim})

    @override
    def weights(self) -> list[Weight]:
        return llama_table(self, LLAMA_LAYER, mlp_bias=self.mlp_bias)
