"""Qwen3: pre-norm, RMS norms, rotary positions, grouped-query attention with a norm per head, gated feed-forward.

Language models attend causally. Embedding models may be bidirectional, with `is_causal: false` in `config.json`.

Source: Yang et al. 2025, arXiv:2505.09388, section 2; Zhang et al. 2025 (Qwen3-Embedding), arXiv:2506.05176; equivalent
to transformers' `Qwen3Model`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import parse
from jdistill.student.attention import CAUSAL, FULL
from jdistill.student.encoders.base import Epsilon, HeadCount, HiddenSize, InnerSize, LayerCount, MaxLength, VocabSize
from jdistill.student.encoders.hf_config import (
    DEFAULT_THETA,
    Activation,
    check_heads,
    read_rope,
    rope_scaling,
    same_named,
)
from jdistill.student.encoders.pre_norm import (
    HEAD_NORMS,
    LLAMA_LAYER,
    LayerOptions,
    LayerType,
    SlidingConfig,
    llama_table,
)
from jdistill.student.kernels import Window
from jdistill.student.modules import RMSNorm
from jdistill.student.rotary import Rope
from jdistill.student.weights import Weight

_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": 128,
    "intermediate_size": 22016,
}
"""Hugging Face's defaults for missing keys of `config.json`, where they differ from the fields' defaults."""


class Qwen3Config(SlidingConfig):
    """Sizes of a Qwen3, named as in Hugging Face's `config.json`."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3",)
    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"lm_head\..*", r"score\..*", r"qa_outputs\..*")

    kind: Literal["qwen3"] = "qwen3"
    vocab_size: VocabSize = 151936
    hidden_size: HiddenSize = 1024
    num_hidden_layers: LayerCount = 28
    num_attention_heads: HeadCount = 16
    num_key_value_heads: int = Field(default=8, ge=1)
    """Key-value heads, each shared by a group of query heads."""
    head_dim: int = Field(default=128, ge=2)
    """Width of a head."""
    intermediate_size: InnerSize = 3072
    max_position_embeddings: MaxLength = 32768
    rope_theta: float = Field(default=1_000_000.0, gt=0)
    """Rotary base."""
    rope_factor: float = Field(default=1.0, gt=0)
    """Positions are divided by this factor (linear scaling)."""
    hidden_act: Activation = "silu"
    """Activation of the feed-forward gate."""
    rms_norm_eps: Epsilon = 1e-6
    is_causal: bool = True
    """Whether attention is causal; else bidirectional."""
    layer_types: list[LayerType] | None = None
    """Type of each layer. Default: all `full_attention`."""
    sliding_window: int | None = Field(default=None, ge=1)
    """Window of sliding layers. Causal: tokens attended to, including the token itself. Bidirectional: tokens on each
    side, without itself."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_heads(self.hidden_size, self.num_attention_heads, shared=self.num_key_value_heads, head_dim=self.head_dim)
        if self.sliding_window is None and "sliding_attention" in self.types:
            raise ValueError("layer_types has sliding layers, but sliding_window is not set. Set it.")
        return self

    @property
    @override
    def types(self) -> list[LayerType]:
        return ["full_attention"] * self.num_hidden_layers if self.layer_types is None else self.layer_types

    @override
    def norm(self, width: int) -> RMSNorm:
        return RMSNorm(width, self.rms_norm_eps)

    @override
    def layer(self, number: int) -> LayerOptions:
        return LayerOptions(
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            activation=self.hidden_act,
            rope=Rope(self.rope_theta, self.rope_factor),
            window=self._window(self.types[number]),
            head_norms=True,
            attention_bias=self.attention_bias,
        )

    def _window(self, kind: LayerType) -> Window:
        if kind == "full_attention" or self.sliding_window is None:
            return CAUSAL if self.is_causal else FULL
        # As in transformers: causal windows count the token itself, bidirectional ones do not.
        return (self.sliding_window - 1, 0) if self.is_causal else (self.sliding_window, self.sliding_window)

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "Qwen3Config":
        theta = hf.get("rope_theta") or DEFAULT_THETA
        rope = read_rope(hf.get("rope_scaling") or hf.get("rope_parameters"), theta, where=where)
        # transformers' default for a missing key is 32, but null means as many as query heads.
        heads = hf.get("num_attention_heads") if "num_key_value_heads" in hf else 32
        given = {**_DEFAULTS, "num_key_value_heads": heads, **same_named(cls, hf)}
        depth, full = given["num_hidden_layers"], hf.get("max_window_layers", 28)
        # In transformers, `sliding_window` alone has no effect.
        if not hf.get("use_sliding_window"):
            full = depth
            given.pop("sliding_window", None)
        given.setdefault("layer_types", ["full_attention" if i < full else "sliding_attention" for i in range(depth)])
        given |= {"rope_theta": rope.theta, "rope_factor": rope.factor}
        return parse(cls, given, where=where)

    @override
    def to_hf(self) -> dict[str, Any]:
        # In a format that transformers 4 can read.
        plain = self.model_dump(exclude={"kind", "rope_factor"})
        named = {"architectures": ["Qwen3Model"], "model_type": "qwen3"}
        changed = {
            "layer_types": self.types,
            "use_sliding_window": self.sliding_window is not None,
            # For releases without layer_types.
            "max_window_layers": [*self.types, "sliding_attention"].index("sliding_attention"),
            "rope_scaling": rope_scaling(self.rope_factor),
            "pad_token_id": None,
        }
        return {**named, **plain, **changed}

    @override
    def weights(self) -> list[Weight]:
        return llama_table(self, {**LLAMA_LAYER, **HEAD_NORMS})
