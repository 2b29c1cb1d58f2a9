"""Qwen3: pre-norm, RMS norms, rotary positions, grouped-query attention with a norm per head, gated feed-forward.

Language models attend causally. Embedding models may be bidirectional, with `is_causal: false` in `config.json`.

Source: Yang et al. 2025, arXiv:2505.09388, section 2; Zhang et al. 2025 (Qwen3-Embedding), arXiv:2506.05176; equivalent
to transformers' `Qwen3Model`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from jdistill.config import parse
from jdistill.student.attention import CAUSAL, FULL, attention
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.encoders.hf_config import (
    DEFAULT_THETA,
    Activation,
    LayerType,
    check_heads,
    check_layer_types,
    read_rope,
    rope_scaling,
    same_named,
)
from jdistill.student.kernels import Window
from jdistill.student.layers import FLOAT32, dropout, gated, keys
from jdistill.student.modules import Linear, RMSNorm, TokenEmbedding, linear_rows, norm_rows
from jdistill.student.packing import Rows
from jdistill.student.rotary import RopeTables, rotate, turn
from jdistill.student.stack import run_layers
from jdistill.student.weights import Weight

_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": 128,
    "intermediate_size": 22016,
}
"""Hugging Face's defaults for missing keys of `config.json`, where they differ from the fields' defaults."""


class Qwen3Config(EncoderConfig):
    """Sizes of a Qwen3, named as in Hugging Face's `config.json`."""

    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"lm_head\..*", r"score\..*", r"qa_outputs\..*")

    kind: Literal["qwen3"] = "qwen3"
    vocab_size: int = Field(default=151936, ge=1)
    """Vocabulary size."""
    hidden_size: int = Field(default=1024, ge=1)
    """Hidden size."""
    num_hidden_layers: int = Field(default=28, ge=1)
    """Number of layers."""
    num_attention_heads: int = Field(default=16, ge=1)
    """Query heads."""
    num_key_value_heads: int = Field(default=8, ge=1)
    """Key-value heads, each shared by a group of query heads."""
    head_dim: int = Field(default=128, ge=2)
    """Width of a head."""
    intermediate_size: int = Field(default=3072, ge=1)
    """Width of the feed-forward layer."""
    max_position_embeddings: int = Field(default=32768, ge=1)
    """Maximum input length in tokens."""
    rope_theta: float = Field(default=1_000_000.0, gt=0)
    """Rotary base."""
    rope_factor: float = Field(default=1.0, gt=0)
    """Positions are divided by this factor (linear scaling)."""
    hidden_act: Activation = "silu"
    """Activation of the feed-forward gate."""
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    """Epsilon of RMS norms."""
    attention_bias: bool = False
    """Whether attention projections have biases."""
    is_causal: bool = True
    """Whether attention is causal; else bidirectional."""
    layer_types: list[LayerType] | None = None
    """Type of each layer. Default: all `full_attention`."""
    sliding_window: int | None = Field(default=None, ge=1)
    """Window of sliding layers. Causal: tokens attended to, including the token itself. Bidirectional: tokens on each
    side, without itself."""
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of randomly initialised weights."""

    @model_validator(mode="after")
    def _fits(self) -> "Qwen3Config":
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        check_heads(self.hidden_size, heads, shared=shared, head_dim=self.head_dim)
        check_layer_types(self.layer_types, self.num_hidden_layers, window=self.sliding_window)
        return self

    @property
    def width(self) -> int:
        """`hidden_size`."""
        return self.hidden_size

    @property
    def depth(self) -> int:
        """`num_hidden_layers`."""
        return self.num_hidden_layers

    @property
    def max_positions(self) -> int | None:
        """`max_position_embeddings`."""
        return self.max_position_embeddings

    @property
    def types(self) -> list[LayerType]:
        """`layer_types`, or the architecture's default pattern."""
        return ["full_attention"] * self.num_hidden_layers if self.layer_types is None else self.layer_types

    def window(self, layer: int) -> Window:
        """The attention window of a layer."""
        if self.types[layer] == "full_attention" or self.sliding_window is None:
            return CAUSAL if self.is_causal else FULL
        return (self.sliding_window - 1, 0) if self.is_causal else (self.sliding_window, self.sliding_window)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "Qwen3Config":
        """Ignores dropout rates; set `student.dropout`."""
        theta = hf.get("rope_theta") or DEFAULT_THETA
        rope = read_rope(hf.get("rope_scaling") or hf.get("rope_parameters"), theta, where=where)
        heads = hf.get("num_attention_heads") if "num_key_value_heads" in hf else 32
        given = {**_DEFAULTS, "num_key_value_heads": heads, **same_named(cls, hf)}
        depth, full = given["num_hidden_layers"], hf.get("max_window_layers", 28)
        if not hf.get("use_sliding_window"):
            full = depth
            given.pop("sliding_window", None)
        given.setdefault("layer_types", ["full_attention" if i < full else "sliding_attention" for i in range(depth)])
        given |= {"rope_theta": rope.theta, "rope_factor": rope.factor}
        return parse(cls, given, where=where)

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `Qwen3Model`, in a format that transformers 4 can read."""
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

    def weights(self) -> list[Weight]:
        """Embeddings, layer by layer, the final norm."""
        rows = [Weight("embed_tokens.weight", "embeddings.words")]
        for i in range(self.num_hidden_layers):
            at = f"layers.{i}"
            for hf, ours in {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}.items():
                rows += linear_rows(f"{at}.self_attn.{hf}", f"{at}.{ours}", bias=self.attention_bias)
            rows += norm_rows(f"{at}.self_attn.q_norm", f"{at}.query_norm", bias=False)
            rows += norm_rows(f"{at}.self_attn.k_norm", f"{at}.key_norm", bias=False)
            for name in ("gate", "up", "down"):
                rows += linear_rows(f"{at}.mlp.{name}_proj", f"{at}.{name}", bias=False)
            rows += norm_rows(f"{at}.input_layernorm", f"{at}.attention_norm", bias=False)
            rows += norm_rows(f"{at}.post_attention_layernorm", f"{at}.mlp_norm", bias=False)
        return rows + norm_rows("norm", "final_norm", bias=False)

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Qwen3":
        """A `Qwen3`."""
        return Qwen3(self, computing, rngs=rngs)

    def with_layers(self, layers: Sequence[int]) -> "Qwen3Config":
        """Each layer keeps its attention window."""
        kept = None if self.layer_types is None else [self.layer_types[layer] for layer in layers]
        return self.model_copy(update={"num_hidden_layers": len(layers), "layer_types": kept})


class Layer(nnx.Module):
    """Attention and gated feed-forward with pre-norm residuals."""

    def __init__(self, config: Qwen3Config, number: int, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim, self.activation, self.window = config.head_dim, config.hidden_act, config.window(number)
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        heads, shared = (n * self.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        biased, epsilon = config.attention_bias, config.rms_norm_eps
        self.query = Linear(width, heads, std=std, rngs=rngs, bias=biased)
        self.key, self.value = (Linear(width, shared, std=std, rngs=rngs, bias=biased) for _ in range(2))
        self.out = Linear(heads, width, std=std, rngs=rngs, bias=biased)
        self.gate, self.up = (Linear(width, inner, std=std, rngs=rngs, bias=False) for _ in range(2))
        self.down = Linear(inner, width, std=std, rngs=rngs, bias=False)
        self.query_norm, self.key_norm = (RMSNorm(self.head_dim, epsilon) for _ in range(2))
        self.attention_norm, self.mlp_norm = (RMSNorm(width, epsilon) for _ in range(2))

    def __call__(
        self,
        x: Float[Array, "r p d"],
        places: Bool[Array, "r p"] | Int[Array, "r p"],
        by: RopeTables,
        *,
        dropout_key: Array | None,
    ) -> Float[Array, "r p d"]:
        """The same shape; tokens attend only to tokens of the same text."""
        weights_key, attended_key, output_key = keys(dropout_key, 3)
        rate, normed = self.computing.dropout, self.attention_norm(x)
        q, k, v = (part(normed).reshape(*x.shape[:2], -1, self.head_dim) for part in (self.query, self.key, self.value))
        attended = attention(
            rotate(self.query_norm(q, FLOAT32), by).astype(v.dtype),
            rotate(self.key_norm(k, FLOAT32), by).astype(v.dtype),
            v,
            places,
            window=self.window,
            dropout_rate=rate,
            dropout_key=weights_key,
            kernel=self.computing.attention,
        ).reshape(*x.shape[:2], -1)
        x = x + dropout(self.out(attended), rate, attended_key)
        normed = self.mlp_norm(x)
        inner = gated(self.gate(normed), self.up(normed), self.activation)
        return x + dropout(self.down(inner), rate, output_key)


class Qwen3(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __init__(self, config: Qwen3Config, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim, self.theta, self.factor = config.head_dim, config.rope_theta, config.rope_factor
        std, dtype = config.initializer_range, computing.dtype
        self.embeddings = TokenEmbedding(config.vocab_size, config.hidden_size, std=std, dtype=dtype, rngs=rngs)
        numbers = range(config.num_hidden_layers)
        self.layers = nnx.Dict({str(i): Layer(config, i, computing, rngs=rngs) for i in numbers})
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings, and the last layer's pass the final norm."""
        depth = len(self.layers)
        first, *rest = keys(dropout_key, 1 + depth)
        by = turn(rows.positions, self.head_dim, self.theta, factor=self.factor)
        done = run_layers(
            [self.layers[str(i)] for i in range(depth)],
            lambda layer, x, key: layer(x, rows.places, by, dropout_key=key),
            dropout(self.embeddings(rows.ids), self.computing.dropout, first),
            rest,
            wanted=layers,
            remat=self.computing.remat,
            scan=self.computing.scan,
        )
        return {layer: self.final_norm(x) if layer == depth else x for layer, x in done.items()}
