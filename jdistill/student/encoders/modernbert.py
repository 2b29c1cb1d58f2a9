"""ModernBERT: pre-norm encoder with rotary positions, gated feed-forward, and sliding windows in most layers.

Files store queries, keys and values as one tensor, and likewise the two halves of the feed-forward layer. Here they are
separate parameters; `gate` is the half with the activation. The first layer's attention has no norm, since embeddings
are already normalized.

Source: Warner et al. 2024, arXiv:2412.13663; sizes of Weller et al. 2025 (Ettin), arXiv:2507.11412; equivalent
to transformers' `ModernBertModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from jdistill.config import UserError, parse
from jdistill.student.attention import FULL, attention
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.encoders.hf_config import (
    Activation,
    LayerType,
    check_heads,
    check_layer_types,
    read_rope,
    refuse,
    same_named,
)
from jdistill.student.layers import dropout, gated, keys, lookup
from jdistill.student.modules import LayerNorm, Linear, linear_rows, norm_rows, normal
from jdistill.student.packing import Rows
from jdistill.student.rotary import RopeTables, rotate, turn
from jdistill.student.stack import run_layers
from jdistill.student.weights import Weight

SIZES: dict[str, dict[str, int]] = {
    name: {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
    }
    for name, layers, width, inner, heads in (
        ("ettin-17m", 7, 256, 384, 4),
        ("ettin-32m", 10, 384, 576, 6),
        ("ettin-68m", 19, 512, 768, 8),
        ("ettin-150m", 22, 768, 1152, 12),
        ("ettin-400m", 28, 1024, 2624, 16),
    )
}
"""Ettin's encoders; the two largest have the sizes of ModernBERT-base and -large."""

GLOBAL_EVERY = 3
"""Default interval of full attention layers, starting with the first."""


class ModernBertConfig(EncoderConfig):
    """Sizes of a ModernBERT, named as in Hugging Face's `config.json`, except for rotary positions."""

    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = SIZES
    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"head\..*", r"decoder\..*", r"classifier\..*")

    kind: Literal["modernbert"] = "modernbert"
    vocab_size: int = Field(default=50368, ge=1)
    """Vocabulary size."""
    hidden_size: int = Field(default=768, ge=1)
    """Hidden size."""
    num_hidden_layers: int = Field(default=22, ge=1)
    """Number of layers."""
    num_attention_heads: int = Field(default=12, ge=1)
    """Attention heads; must divide `hidden_size`."""
    intermediate_size: int = Field(default=1152, ge=1)
    """Width of the feed-forward layer."""
    max_position_embeddings: int = Field(default=8192, ge=1)
    """Maximum input length in tokens."""
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
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of layer norms."""
    norm_bias: bool = False
    """Whether norms have a bias."""
    attention_bias: bool = False
    """Whether attention projections have biases."""
    mlp_bias: bool = False
    """Whether feed-forward matrices have biases."""
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of randomly initialised weights; for output projections it is divided by `sqrt(2 depth)`."""

    @model_validator(mode="after")
    def _fits(self) -> "ModernBertConfig":
        check_heads(self.hidden_size, self.num_attention_heads)
        check_layer_types(self.layer_types, self.num_hidden_layers, window=self.local_attention // 2)
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
        return _pattern(self.num_hidden_layers, GLOBAL_EVERY) if self.layer_types is None else self.layer_types

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "ModernBertConfig":
        """Ignores dropout rates; set `student.dropout`."""
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

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `ModernBertModel`, in a format that transformers 4 can read."""
        renamed = {"global_rope_theta": self.rope_theta, "layer_types": self.types, "pad_token_id": None}
        every = next((n for n in range(1, self.depth + 1) if _pattern(self.depth, n) == self.types), None)
        if every is not None:
            renamed["global_attn_every_n_layers"] = every  # which transformers reads before 5
        plain = self.model_dump(exclude={"kind", "rope_theta", "layer_types"})
        return {"architectures": ["ModernBertModel"], "model_type": "modernbert", **plain, **renamed}

    def weights(self) -> list[Weight]:
        """Embeddings, layer by layer, the final norm."""
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

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "ModernBert":
        """A `ModernBert`."""
        return ModernBert(self, computing, rngs=rngs)

    def with_layers(self, layers: Sequence[int]) -> "ModernBertConfig":
        """Each layer keeps its attention window."""
        if layers[0] != 0 or 0 in layers[1:]:
            raise UserError(
                f"student.keep_layers: is {list(layers)}, but a ModernBERT must start with layer 0, the only one "
                "without a norm before its attention. Put 0 first, and only there."
            )
        kept = [self.types[layer] for layer in layers]
        return self.model_copy(update={"num_hidden_layers": len(layers), "layer_types": kept})


class Embeddings(nnx.Module):
    """Word embeddings, normalized."""

    def __init__(self, config: ModernBertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.words = nnx.Param(normal(rngs, config.initializer_range, config.vocab_size, config.hidden_size))
        self.norm = LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)

    def __call__(self, ids: Int[Array, "r p"]) -> Float[Array, "r p d"]:
        """`ids [r, p] -> [r, p, d]`."""
        return self.norm(lookup(self.words[...], ids, self.computing.dtype))


class Layer(nnx.Module):
    """Attention and gated feed-forward with pre-norm residuals."""

    def __init__(self, config: ModernBertConfig, number: int, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.heads, self.activation = config.num_attention_heads, config.hidden_activation
        self.kind = config.types[number]
        side = config.local_attention // 2
        self.window = (side, side) if self.kind == "sliding_attention" else FULL
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        std_out = std / (2 * config.num_hidden_layers) ** 0.5
        biased, mlp_biased = config.attention_bias, config.mlp_bias
        self.query, self.key, self.value = (Linear(width, width, std=std, rngs=rngs, bias=biased) for _ in range(3))
        self.out = Linear(width, width, std=std_out, rngs=rngs, bias=biased)
        self.gate, self.up = (Linear(width, inner, std=std, rngs=rngs, bias=mlp_biased) for _ in range(2))
        self.down = Linear(inner, width, std=std_out, rngs=rngs, bias=mlp_biased)
        norms = [LayerNorm(width, config.norm_eps, bias=config.norm_bias) for _ in range(2)]
        self.attention_norm = norms[0] if number > 0 else None
        self.mlp_norm = norms[1]

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
        rate = self.computing.dropout
        normed = x if self.attention_norm is None else self.attention_norm(x)
        q, k, v = (part(normed).reshape(*x.shape[:2], self.heads, -1) for part in (self.query, self.key, self.value))
        attended = attention(
            rotate(q, by),
            rotate(k, by),
            v,
            places,
            window=self.window,
            dropout_rate=rate,
            dropout_key=weights_key,
            kernel=self.computing.attention,
        ).reshape(x.shape)
        x = x + dropout(self.out(attended), rate, attended_key)
        normed = self.mlp_norm(x)
        inner = gated(self.gate(normed), self.up(normed), self.activation)
        return x + dropout(self.down(inner), rate, output_key)


class ModernBert(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __init__(self, config: ModernBertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.thetas = (("full_attention", config.rope_theta), ("sliding_attention", config.local_rope_theta))
        self.embeddings = Embeddings(config, computing, rngs=rngs)
        numbers = range(config.num_hidden_layers)
        self.layers = nnx.Dict({str(i): Layer(config, i, computing, rngs=rngs) for i in numbers})
        self.final_norm = LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings, and the last layer's pass the final norm."""
        depth = len(self.layers)
        first, *rest = keys(dropout_key, 1 + depth)
        turns = {kind: turn(rows.positions, self.head_dim, theta) for kind, theta in self.thetas}
        done = run_layers(
            [self.layers[str(i)] for i in range(depth)],
            lambda layer, x, key: layer(x, rows.places, turns[layer.kind], dropout_key=key),
            dropout(self.embeddings(rows.ids), self.computing.dropout, first),
            rest,
            wanted=layers,
            remat=self.computing.remat,
            scan=self.computing.scan,
        )
        return {layer: self.final_norm(x) if layer == depth else x for layer, x in done.items()}


def _pattern(depth: int, every: int) -> list[LayerType]:
    return ["sliding_attention" if i % every else "full_attention" for i in range(depth)]
