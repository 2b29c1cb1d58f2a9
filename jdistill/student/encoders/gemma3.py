"""Gemma 3 for text, as in EmbeddingGemma: RMS norms before and after attention and feed-forward, mostly windows.

Language models attend causally. Embedding models are bidirectional, with `use_bidirectional_attention: true` in
`config.json`.

Source: Gemma Team 2025, arXiv:2503.19786, section 2; Vera et al. 2025 (EmbeddingGemma), arXiv:2509.20354; equivalent
to transformers' `Gemma3TextModel`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import UserError, parse
from jdistill.student.attention import CAUSAL, FULL
from jdistill.student.encoders.base import Epsilon, HeadCount, HiddenSize, InnerSize, LayerCount, MaxLength, VocabSize
from jdistill.student.encoders.hf_config import Activation, check_heads, read_rope, refuse, rope_scaling, same_named
from jdistill.student.encoders.pre_norm import (
    HEAD_NORMS,
    LLAMA_LAYER,
    LayerOptions,
    LayerType,
    SlidingConfig,
    llama_table,
)
from jdistill.student.modules import RMSNorm
from jdistill.student.rotary import Rope
from jdistill.student.weights import Weight

FULL_EVERY = 6
"""Default interval of full attention layers, ending with the last of each six."""

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 9216,
    "sliding_window": 4096,
    "use_bidirectional_attention": False,
    "max_position_embeddings": 131_072,
}
"""Hugging Face's defaults for missing keys of `config.json`, where they differ from the fields' defaults."""

_LAYER = {
    **LLAMA_LAYER,
    **HEAD_NORMS,
    # Llama's names mean other norms here: its `post_attention_layernorm` is the one before the feed-forward.
    "post_attention_layernorm": "attended_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "output_norm",
}
"""Names of the parts of a layer."""


class Gemma3Config(SlidingConfig):
    """Sizes of a Gemma 3, named as in Hugging Face's `config.json`, except for rotary positions."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"lm_head\..*", r"score\..*", r"qa_outputs\..*")
    scaled_words: ClassVar[bool] = True
    float32_residual: ClassVar[bool] = True

    kind: Literal["gemma3"] = "gemma3"
    vocab_size: VocabSize = 262144
    hidden_size: HiddenSize = 768
    num_hidden_layers: LayerCount = 24
    num_attention_heads: HeadCount = 3
    num_key_value_heads: int = Field(default=1, ge=1)
    """Key-value heads, each shared by a group of query heads."""
    head_dim: int = Field(default=256, ge=2)
    """Width of a head."""
    query_pre_attn_scalar: int = Field(default=256, ge=1)
    """Attention scores are divided by its square root."""
    intermediate_size: InnerSize = 1152
    max_position_embeddings: MaxLength = 2048
    use_bidirectional_attention: bool = True
    """Whether attention is bidirectional; else causal."""
    layer_types: list[LayerType] | None = None
    """Type of each layer. Default: `full_attention` for every sixth layer, else `sliding_attention`."""
    sliding_window: int = Field(default=512, ge=1)
    """Window of sliding layers. Causal: tokens attended to, including the token itself. Bidirectional: half of it on
    each side."""
    rope_theta: float = Field(default=1_000_000.0, gt=0)
    """Rotary base of full attention layers."""
    rope_factor: float = Field(default=1.0, gt=0)
    """In full attention layers, positions are divided by this factor (linear scaling)."""
    local_rope_theta: float = Field(default=10_000.0, gt=0)
    """Rotary base of sliding layers (`rope_local_base_freq` in `config.json`)."""
    hidden_activation: Activation = "gelu_pytorch_tanh"
    """Activation of the feed-forward gate."""
    rms_norm_eps: Epsilon = 1e-6

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        check_heads(self.hidden_size, heads, shared=shared, head_dim=self.head_dim, divides=True)
        return self

    @property
    @override
    def types(self) -> list[LayerType]:
        return _pattern(self.num_hidden_layers, FULL_EVERY) if self.layer_types is None else self.layer_types

    @override
    def norm(self, width: int) -> RMSNorm:
        # Files store the scale minus 1.
        return RMSNorm(width, self.rms_norm_eps, offset=1.0)

    @override
    def layer(self, number: int) -> LayerOptions:
        both, full = self.use_bidirectional_attention, self.types[number] == "full_attention"
        # As in transformers: a causal window counts the token itself; half of a bidirectional one is on each side.
        half = self.sliding_window // 2
        window = (half, half) if both else (self.sliding_window - 1, 0)
        return LayerOptions(
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            activation=self.hidden_activation,
            # Sliding layers see near tokens only, so that they keep the base of short texts, and need no scaling.
            rope=Rope(self.rope_theta, self.rope_factor) if full else Rope(self.local_rope_theta),
            window=(FULL if both else CAUSAL) if full else window,
            # Independent of the width of a head: in Gemma 3 27B the two differ.
            score_scale=self.query_pre_attn_scalar**-0.5,
            norms="around",
            head_norms=True,
            attention_bias=self.attention_bias,
        )

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "Gemma3Config":
        # With is_causal false, transformers' windows are one token wider than in any published model.
        refuse(hf, {"attn_logit_softcapping": (), "is_causal": (True,)}, where=where)
        sections = hf.get("rope_parameters") or {}
        # transformers 5 has a section per type of layer; 4 has `rope_scaling`, for full attention layers only.
        scaled = {**(sections.get("full_attention") or {}), **(hf.get("rope_scaling") or {})}
        rope = read_rope(scaled, hf.get("rope_theta") or cls.model_fields["rope_theta"].default, where=where)
        theta = hf.get("rope_local_base_freq") or cls.model_fields["local_rope_theta"].default
        local = read_rope(sections.get("sliding_attention"), theta, where=where)
        if local.factor != 1:
            raise UserError(f"{where}: rope_type of sliding_attention is linear, which is not supported.")
        given = {**_DEFAULTS, **same_named(cls, hf), "rope_theta": rope.theta, "rope_factor": rope.factor}
        every = hf.get("sliding_window_pattern") or hf.get("_sliding_window_pattern") or FULL_EVERY
        given.setdefault("layer_types", _pattern(given["num_hidden_layers"], every))
        return parse(cls, given | {"local_rope_theta": local.theta}, where=where)

    @override
    def to_hf(self) -> dict[str, Any]:
        # In a format that late releases of transformers 4 can read.
        plain = self.model_dump(exclude={"kind", "rope_factor", "local_rope_theta"})
        named = {"architectures": ["Gemma3TextModel"], "model_type": "gemma3_text"}
        changed = {
            "layer_types": self.types,
            "rope_local_base_freq": self.local_rope_theta,
            "rope_scaling": rope_scaling(self.rope_factor),
        }
        return {**named, **plain, **changed}

    @override
    def weights(self) -> list[Weight]:
        return llama_table(self, _LAYER)


def _pattern(depth: int, every: int) -> list[LayerType]:
    return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(depth)]
