"""ModernBERT: pre-norm encoder with rotary positions, gated feed-forward, and sliding windows in most layers.

Files store queries, keys and values as one tensor, and likewise the two halves of the feed-forward layer. Here they are
separate parameters; `gate` is the half with the activation. The first layer's attention has no norm, since embeddings
are already normalized.

Source: Warner et al. 2024, arXiv:2412.13663; sizes of Weller et al. 2025 (Ettin), arXiv:2507.11412; equivalent
to transformers' `ModernBertModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import UserError, parse
from jdistill.student.attention import FULL
from jdistill.student.encoders.base import (
    EncoderConfig,
    Epsilon,
    HiddenSize,
    InnerSize,
    LayerCount,
    MaxLength,
    VocabSize,
    model_size,
)
from jdistill.student.encoders.hf_config import Activation, check_heads, read_rope, refuse, same_named
from jdistill.student.encoders.pre_norm import LayerOptions, LayerType, SlidingConfig
from jdistill.student.masked_lm import MaskedLM
from jdistill.student.modules import LayerNorm, linear_rows, norm_rows
from jdistill.student.rotary import Rope
from jdistill.student.weights import Weight

GLOBAL_EVERY = 3
"""Default interval of full attention layers, starting with the first."""


class ModernBertConfig(SlidingConfig):
    """Sizes of a ModernBERT, named as in Hugging Face's `config.json`, except for rotary positions."""

    model_types: ClassVar[tuple[str, ...]] = ("modernbert",)
    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"head\..*", r"decoder\..*", r"classifier\..*")
    # Ettin's encoders; the two largest have the sizes of ModernBERT-base and -large.
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "ettin-17m": model_size(layers=7, width=256, intermediate=384, heads=4),
        "ettin-32m": model_size(layers=10, width=384, intermediate=576, heads=6),
        "ettin-68m": model_size(layers=19, width=512, intermediate=768, heads=8),
        "ettin-150m": model_size(layers=22, width=768, intermediate=1152, heads=12),
        "ettin-400m": model_size(layers=28, width=1024, intermediate=2624, heads=16),
    }
    normed_words: ClassVar[bool] = True

    kind: Literal["modernbert"] = "modernbert"
    vocab_size: VocabSize = 50368
    hidden_size: HiddenSize = 768
    num_hidden_layers: LayerCount = 22
    num_attention_heads: int = Field(default=12, ge=1)
    """Attention heads; must divide `hidden_size`."""
    intermediate_size: InnerSize = 1152
    max_position_embeddings: MaxLength = 8192
    layer_types: list[LayerType] | None = None
    """Type of each layer. Default: `full_attention` for layers 0, 3, 6, ..., else `sliding_attention`."""
    local_attention: int = Field(default=128, ge=2)
    """Window of sliding layers in tokens, half of it on each side."""
    rope_theta: float = Field(default=160_000.0, gt=0)
    """Rotary base of full attention layers (`global_rope_theta` in `config.json`)."""
    local_rope_theta: float = Field(default=10_000.0, gt=0)
    """Rotary base of sliding layers."""
    hidden_activation: Activation = "gelu"
    """Activation of the feed-forward gate."""
    norm_eps: Epsilon = 1e-5
    norm_bias: bool = False
    """Whether norms have a bias."""
    mlp_bias: bool = False
    """Whether feed-forward matrices have biases."""
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of randomly initialised weights; for output projections it is divided by `sqrt(2 depth)`."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.hidden_size, self.num_attention_heads)
        return self

    @property
    @override
    def types(self) -> list[LayerType]:
        return _pattern(self.num_hidden_layers, GLOBAL_EVERY) if self.layer_types is None else self.layer_types

    @override
    def norm(self, width: int) -> LayerNorm:
        return LayerNorm(width, self.norm_eps, bias=self.norm_bias)

    @override
    def layer(self, number: int) -> LayerOptions:
        full, side = self.types[number] == "full_attention", self.local_attention // 2
        return LayerOptions(
            kv_heads=self.num_attention_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            activation=self.hidden_activation,
            rope=Rope(self.rope_theta if full else self.local_rope_theta),
            window=FULL if full else (side, side),
            attention_norm=number > 0,  # embeddings are normalized already
            attention_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            # Every layer adds two outputs: so the variance of the sum at the end does not grow with the depth.
            output_std=self.initializer_range / (2 * self.num_hidden_layers) ** 0.5,
        )

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "ModernBertConfig":
        refuse(hf, {"rope_scaling": ()}, where=where)
        sections = hf.get("rope_parameters") or {}
        theta = hf.get("global_rope_theta") or cls.model_fields["rope_theta"].default
        everywhere = read_rope(sections.get("full_attention"), theta, where=where)
        # Null means the base of full attention layers.
        local = hf.get("local_rope_theta", cls.model_fields["local_rope_theta"].default) or everywhere.theta
        nearby = read_rope(sections.get("sliding_attention"), local, where=where)
        if (everywhere.factor, nearby.factor) != (1.0, 1.0):
            raise UserError(f"{where}: rope_type is linear, which is not supported for ModernBERT.")
        given = {"rope_theta": everywhere.theta, "local_rope_theta": nearby.theta, **same_named(cls, hf)}
        if "layer_types" not in given:
            depth = hf.get("num_hidden_layers", cls.model_fields["num_hidden_layers"].default)
            given["layer_types"] = _pattern(depth, hf.get("global_attn_every_n_layers", GLOBAL_EVERY))
        return parse(cls, given, where=where)

    @override
    def to_hf(self) -> dict[str, Any]:
        # In a format that transformers 4 can read.
        renamed = {"global_rope_theta": self.rope_theta, "layer_types": self.types, "pad_token_id": None}
        every = next((n for n in range(1, self.depth + 1) if _pattern(self.depth, n) == self.types), None)
        if every is not None:
            renamed["global_attn_every_n_layers"] = every  # which transformers reads before 5
        plain = self.model_dump(exclude={"kind", "rope_theta", "layer_types"})
        return {"architectures": ["ModernBertModel"], "model_type": "modernbert", **plain, **renamed}

    @override
    def weights(self) -> list[Weight]:
        rows = [Weight("embeddings.tok_embeddings.weight", "embeddings.words")]
        rows += norm_rows("embeddings.norm", "embeddings.norm", bias=self.norm_bias)
        for i in range(self.num_hidden_layers):
            at = f"layers.{i}"
            for part, name in enumerate(("query", "key", "value")):
                rows += linear_rows(f"{at}.attn.Wqkv", f"{at}.{name}", bias=self.attention_bias, part=(part, 3))
            rows += linear_rows(f"{at}.attn.Wo", f"{at}.out", bias=self.attention_bias)
            for part, name in enumerate(("gate", "up")):
                rows += linear_rows(f"{at}.mlp.Wi", f"{at}.{name}", bias=self.mlp_bias, part=(part, 2))
            rows += linear_rows(f"{at}.mlp.Wo", f"{at}.down", bias=self.mlp_bias)
            if i > 0:
                rows += norm_rows(f"{at}.attn_norm", f"{at}.attention_norm", bias=self.norm_bias)
            rows += norm_rows(f"{at}.mlp_norm", f"{at}.mlp_norm", bias=self.norm_bias)
        return rows + norm_rows("final_norm", "final_norm", bias=self.norm_bias)

    @override
    def masked_lm(self) -> MaskedLM:
        return MaskedLM(
            "ModernBertForMaskedLM",
            dense="head.dense",
            norm="head.norm",
            bias="decoder.bias",
            decoder="decoder.weight",
            activation="gelu",
            epsilon=self.norm_eps,
            biased=self.norm_bias,
            flags={"classifier_bias": "dense.bias", "decoder_bias": "bias"},
        )

    @override
    def with_layers(self, layers: Sequence[int]) -> EncoderConfig:
        if layers[0] != 0 or 0 in layers[1:]:
            raise UserError(
                f"student.keep_layers: is {list(layers)}, but a ModernBERT must start with layer 0, the only one "
                "without a norm before its attention. Put 0 first, and only there."
            )
        return super().with_layers(layers)


def _pattern(depth: int, every: int) -> list[LayerType]:
    return ["sliding_attention" if i % every else "full_attention" for i in range(depth)]
