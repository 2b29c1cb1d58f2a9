"""Gemma 3 for text, as in EmbeddingGemma: RMS norms before and after attention and feed-forward, mostly windows.

Language models attend causally. Embedding models are bidirectional, with `use_bidirectional_attention: true` in
`config.json`.

Source: Gemma Team 2025, arXiv:2503.19786, section 2; Vera et al. 2025 (EmbeddingGemma), arXiv:2509.20354; equivalent
to transformers' `Gemma3TextModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from jdistill.config import UserError, parse
from jdistill.student.attention import CAUSAL, FULL, attention
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.encoders.hf_config import (
    Activation,
    LayerType,
    Rope,
    check_heads,
    check_layer_types,
    read_rope,
    refuse,
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

_NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "attended_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "output_norm",
}


class Gemma3Config(EncoderConfig):
    """Sizes of a Gemma 3, named as in Hugging Face's `config.json`, except for rotary positions."""

    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"lm_head\..*", r"score\..*", r"qa_outputs\..*")

    scaled_words: ClassVar[bool] = True

    kind: Literal["gemma3"] = "gemma3"
    vocab_size: int = Field(default=262144, ge=1)
    """Vocabulary size."""
    hidden_size: int = Field(default=768, ge=1)
    """Hidden size."""
    num_hidden_layers: int = Field(default=24, ge=1)
    """Number of layers."""
    num_attention_heads: int = Field(default=3, ge=1)
    """Query heads."""
    num_key_value_heads: int = Field(default=1, ge=1)
    """Key-value heads, each shared by a group of query heads."""
    head_dim: int = Field(default=256, ge=2)
    """Width of a head."""
    query_pre_attn_scalar: int = Field(default=256, ge=1)
    """Attention scores are divided by its square root."""
    intermediate_size: int = Field(default=1152, ge=1)
    """Width of the feed-forward layer."""
    max_position_embeddings: int = Field(default=2048, ge=1)
    """Maximum input length in tokens."""
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
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    """Epsilon of RMS norms."""
    attention_bias: bool = False
    """Whether attention projections have biases."""
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of randomly initialised weights."""

    @model_validator(mode="after")
    def _fits(self) -> "Gemma3Config":
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        check_heads(self.hidden_size, heads, shared=shared, head_dim=self.head_dim, divides=True)
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
        return _pattern(self.num_hidden_layers, FULL_EVERY) if self.layer_types is None else self.layer_types

    def window(self, layer: int) -> Window:
        """The attention window of a layer."""
        both = self.use_bidirectional_attention
        if self.types[layer] == "full_attention":
            return FULL if both else CAUSAL
        return (self.sliding_window // 2, self.sliding_window // 2) if both else (self.sliding_window - 1, 0)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "Gemma3Config":
        """Ignores dropout rates; set `student.dropout`."""
        # With is_causal false, transformers' windows are one token wider than in any published model.
        refuse(hf, {"attn_logit_softcapping": (), "is_causal": (True,)}, where=where)
        sections = hf.get("rope_parameters") or {}
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

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `Gemma3TextModel`, in a format that late releases of transformers 4 can read."""
        plain = self.model_dump(exclude={"kind", "rope_factor", "local_rope_theta"})
        named = {"architectures": ["Gemma3TextModel"], "model_type": "gemma3_text"}
        changed = {
            "layer_types": self.types,
            "rope_local_base_freq": self.local_rope_theta,
            "rope_scaling": rope_scaling(self.rope_factor),
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
            for hf, ours in _NORMS.items():
                rows += norm_rows(f"{at}.{hf}", f"{at}.{ours}", bias=False)
        return rows + norm_rows("norm", "final_norm", bias=False)

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Gemma3":
        """A `Gemma3`."""
        return Gemma3(self, computing, rngs=rngs)

    def with_layers(self, layers: Sequence[int]) -> "Gemma3Config":
        """Each layer keeps its attention window."""
        kept = [self.types[layer] for layer in layers]
        return self.model_copy(update={"num_hidden_layers": len(layers), "layer_types": kept})


class Layer(nnx.Module):
    """Attention and gated feed-forward, with norms before and after each.

    The residual stream is float32 in any dtype, since in bfloat16 each layer would round the whole sum twice.
    """

    def __init__(self, config: Gemma3Config, number: int, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.kind, self.window = config.types[number], config.window(number)
        self.head_dim, self.activation = config.head_dim, config.hidden_activation
        self.scale = config.query_pre_attn_scalar**-0.5
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        heads, shared = (n * self.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        biased, epsilon = config.attention_bias, config.rms_norm_eps
        self.query = Linear(width, heads, std=std, rngs=rngs, bias=biased)
        self.key, self.value = (Linear(width, shared, std=std, rngs=rngs, bias=biased) for _ in range(2))
        self.out = Linear(heads, width, std=std, rngs=rngs, bias=biased)
        self.gate, self.up = (Linear(width, inner, std=std, rngs=rngs, bias=False) for _ in range(2))
        self.down = Linear(inner, width, std=std, rngs=rngs, bias=False)
        self.query_norm, self.key_norm = (RMSNorm(self.head_dim, epsilon, offset=1.0) for _ in range(2))
        self.attention_norm, self.attended_norm = (RMSNorm(width, epsilon, offset=1.0) for _ in range(2))
        self.mlp_norm, self.output_norm = (RMSNorm(width, epsilon, offset=1.0) for _ in range(2))

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
        rate, dtype = self.computing.dropout, self.computing.dtype
        normed = self.attention_norm(x, dtype)
        q, k, v = (part(normed).reshape(*x.shape[:2], -1, self.head_dim) for part in (self.query, self.key, self.value))
        attended = attention(
            rotate(self.query_norm(q, FLOAT32), by).astype(v.dtype),
            rotate(self.key_norm(k, FLOAT32), by).astype(v.dtype),
            v,
            places,
            window=self.window,
            scale=self.scale,
            dropout_rate=rate,
            dropout_key=weights_key,
            kernel=self.computing.attention,
        ).reshape(*x.shape[:2], -1)
        x = x + dropout(self.attended_norm(self.out(attended), FLOAT32), rate, attended_key)
        normed = self.mlp_norm(x, dtype)
        inner = gated(self.gate(normed), self.up(normed), self.activation)
        return x + dropout(self.output_norm(self.down(inner), FLOAT32), rate, output_key)


class Gemma3(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __init__(self, config: Gemma3Config, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim = config.head_dim
        self.ropes = (
            ("full_attention", Rope(config.rope_theta, config.rope_factor)),
            ("sliding_attention", Rope(config.local_rope_theta, 1.0)),
        )
        std = config.initializer_range
        self.embeddings = TokenEmbedding(config.vocab_size, config.hidden_size, std=std, dtype=FLOAT32, rngs=rngs)
        numbers = range(config.num_hidden_layers)
        self.layers = nnx.Dict({str(i): Layer(config, i, computing, rngs=rngs) for i in numbers})
        self.final_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, offset=1.0)

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings, and the last layer's pass the final norm."""
        depth = len(self.layers)
        first, *rest = keys(dropout_key, 1 + depth)
        turns = {kind: turn(rows.positions, self.head_dim, rope.theta, factor=rope.factor) for kind, rope in self.ropes}
        words = self.embeddings(rows.ids)
        words = words * words.shape[-1] ** 0.5
        done = run_layers(
            [self.layers[str(i)] for i in range(depth)],
            lambda layer, x, key: layer(x, rows.places, turns[layer.kind], dropout_key=key),
            dropout(words, self.computing.dropout, first),
            rest,
            wanted=layers,
            remat=self.computing.remat,
            scan=self.computing.scan,
        )
        dtype = self.computing.dtype
        return {layer: (self.final_norm(x) if layer == depth else x).astype(dtype) for layer, x in done.items()}


def _pattern(depth: int, every: int) -> list[LayerType]:
    return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(depth)]
