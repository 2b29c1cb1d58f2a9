"""Shared by encoders with rotary positions and gated feed-forward, most of them with norms before both.

    x = x + attention(norm(x))
    x = x + down(activation(gate(h)) * up(h)),   h = norm(x)

They differ in tensor names and in `LayerOptions`: windows, rotary bases, where norms are, biases.

Source: Touvron et al. 2023 (Llama), arXiv:2302.13971, section 2.2; Ainslie et al. 2023 (grouped-query attention),
arXiv:2305.13245; Shazeer 2020 (gates), arXiv:2002.05202.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import model_validator
from typing_extensions import override

from jdistill.student.attention import FULL, attention
from jdistill.student.encoders.base import Computing, EncoderConfig, TransformerConfig
from jdistill.student.kernels import Window
from jdistill.student.layers import FLOAT32, dropout, gated, keys, lookup
from jdistill.student.modules import LayerNorm, Linear, RMSNorm, linear_rows, norm_rows, normal
from jdistill.student.packing import TokenRows
from jdistill.student.rotary import Rope, RopeTables, rope_tables, rotate
from jdistill.student.stack import run_layers
from jdistill.student.weights import Weight

Norm = LayerNorm | RMSNorm

LayerType = Literal["full_attention", "sliding_attention"]
"""Whether a layer attends to the whole text or to a window around each token."""


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """How a layer differs from those of other encoders. Layers with equal options are scanned as one."""

    kv_heads: int
    """Key-value heads, each shared by a group of query heads."""
    head_dim: int
    """Width of a head."""
    activation: str
    """Activation of the feed-forward gate, one of `layers.ACTIVATIONS`."""
    rope: Rope
    """Rotary base and factor."""
    window: Window = FULL
    """Maximum distance to earlier and to later tokens."""
    score_scale: float | None = None
    """Factor of the attention scores. Default: `1 / sqrt(head_dim)`."""
    norms: Literal["before", "around", "after"] = "before"
    """Norms of attention and feed-forward. `before`: `x + f(norm(x))`. `around`: `x + norm(f(norm(x)))`, as in Gemma 3.
    `after`: `norm(x + f(x))`, as in BERT."""
    attention_norm: bool = True
    """Whether there is a norm before attention."""
    head_norms: bool = False
    """Whether each head's queries and keys are normalized, before they are rotated."""
    attention_bias: bool = False
    """Whether attention projections have biases."""
    mlp_bias: bool = False
    """Whether feed-forward matrices have biases."""
    output_std: float | None = None
    """Standard deviation of random `out` and `down`. Default: as of the others, `initializer_range`."""


class PreNormConfig(TransformerConfig):
    """A pre-norm encoder. A subclass adds its fields, `norm`, `layer` and what else `EncoderConfig` asks for."""

    normed_words: ClassVar[bool] = False
    """Whether word embeddings are normalized."""
    float32_residual: ClassVar[bool] = False
    """Whether hidden states between layers are float32 in any dtype, so that sums are not rounded layer by layer."""

    attention_bias: bool = False
    """Whether attention projections have biases."""

    def norm(self, width: int) -> Norm:
        """A new norm of vectors of this width."""
        raise NotImplementedError

    def layer(self, number: int) -> LayerOptions:
        """The options of a layer, counted from 0."""
        raise NotImplementedError

    @override
    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> nnx.Module:
        embeddings = Embeddings(self, computing, rngs=rngs)
        numbers = range(self.num_hidden_layers)
        layers = [RotaryLayer(self, self.layer(i), self.norm, computing, rngs=rngs) for i in numbers]
        return RotaryEncoder(embeddings, layers, self.norm(self.hidden_size), computing)


class SlidingConfig(PreNormConfig):
    """A pre-norm encoder in which some layers may attend to a window only. A subclass adds `types`."""

    layer_types: list[LayerType] | None = None
    """Type of each layer. Default: the architecture's pattern."""

    @model_validator(mode="after")
    def _every_layer_has_a_type(self) -> Self:
        listed, depth = self.layer_types, self.num_hidden_layers
        if listed is not None and len(listed) != depth:
            raise ValueError(
                f"layer_types lists {len(listed)} layers, but num_hidden_layers is {depth}. Make them agree."
            )
        return self

    @property
    def types(self) -> list[LayerType]:
        """`layer_types`, or the architecture's default pattern."""
        raise NotImplementedError

    @override
    def with_layers(self, layers: Sequence[int]) -> EncoderConfig:
        # Each layer keeps its window, wherever the default pattern would put one.
        kept = [self.types[layer] for layer in layers]
        return self.model_copy(update={"num_hidden_layers": len(layers), "layer_types": kept})


class Embeddings(nnx.Module):
    """Word embeddings, scaled or normalized where the encoder does so."""

    def __init__(self, config: PreNormConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        width = config.hidden_size
        self.dtype = FLOAT32 if config.float32_residual else computing.dtype
        self.scale = width**0.5 if config.scaled_words else None
        self.words = nnx.Param(normal(rngs, config.initializer_range, config.vocab_size, width))
        self.norm = config.norm(width) if config.normed_words else None

    def __call__(self, ids: Int[Array, "r p"]) -> Float[Array, "r p d"]:
        """`ids [r, p] -> [r, p, d]`."""
        words = lookup(self.words[...], ids, self.dtype)
        return _normed(words if self.scale is None else words * self.scale, self.norm)


class RotaryLayer(nnx.Module):
    """Attention with rotary positions and gated feed-forward, each with a residual."""

    def __init__(
        self,
        config: TransformerConfig,
        options: LayerOptions,
        norm: Callable[[int], Norm],
        computing: Computing,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.options, self.computing = options, computing
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        output_std = std if options.output_std is None else options.output_std
        # All heads together may be wider or narrower than the hidden size.
        heads, kv = config.num_attention_heads * options.head_dim, options.kv_heads * options.head_dim
        biased, mlp_biased = options.attention_bias, options.mlp_bias
        self.query = Linear(width, heads, std=std, rngs=rngs, bias=biased)
        self.key, self.value = (Linear(width, kv, std=std, rngs=rngs, bias=biased) for _ in range(2))
        self.out = Linear(heads, width, std=output_std, rngs=rngs, bias=biased)
        self.gate, self.up = (Linear(width, inner, std=std, rngs=rngs, bias=mlp_biased) for _ in range(2))
        self.down = Linear(inner, width, std=output_std, rngs=rngs, bias=mlp_biased)
        self.attention_norm = norm(width) if options.attention_norm else None
        self.mlp_norm = norm(width)
        self.query_norm, self.key_norm = (norm(options.head_dim) if options.head_norms else None for _ in range(2))
        around = options.norms == "around"
        # Norms that are None have no parameters, and so no row in the weight table.
        self.attended_norm, self.output_norm = (norm(width) if around else None for _ in range(2))

    def __call__(
        self,
        x: Float[Array, "r p d"],
        places: Bool[Array, "r p"] | Int[Array, "r p"],
        tables: RopeTables,
        *,
        dropout_key: Array | None,
    ) -> Float[Array, "r p d"]:
        """The same shape and dtype; tokens attend only to tokens of the same text."""
        weights_key, attended_key, output_key = keys(dropout_key, 3)
        rate, dtype = self.computing.dropout, self.computing.dtype
        if self.options.norms == "after":
            attended = self.attend(x, places, tables, weights_key)
            x = _normed(x + dropout(attended, rate, attended_key), self.attention_norm)
            return self.mlp_norm(x + dropout(self.feed_forward(x), rate, output_key))
        # Where x is float32 and products are bfloat16, norms of x are rounded, but sums are not.
        attended = self.attend(_normed(x, self.attention_norm).astype(dtype), places, tables, weights_key)
        x = x + dropout(_normed(attended.astype(x.dtype), self.attended_norm), rate, attended_key)
        output = self.feed_forward(self.mlp_norm(x).astype(dtype))
        return x + dropout(_normed(output.astype(x.dtype), self.output_norm), rate, output_key)

    def attend(
        self,
        x: Float[Array, "r p d"],
        places: Bool[Array, "r p"] | Int[Array, "r p"],
        tables: RopeTables,
        dropout_key: Array | None,
    ) -> Float[Array, "r p d"]:
        """Rotary attention without norm and residual; the key is that of the attention weights."""
        options, rows = self.options, x.shape[:2]
        q, k, v = (part(x).reshape(*rows, -1, options.head_dim) for part in (self.query, self.key, self.value))
        # q [r p heads head_dim], k and v [r p kv_heads head_dim]. Norm and rotation are float32, to be rounded once.
        q = rotate(_normed(q.astype(FLOAT32), self.query_norm), tables).astype(v.dtype)
        k = rotate(_normed(k.astype(FLOAT32), self.key_norm), tables).astype(v.dtype)
        attended = attention(
            q,
            k,
            v,
            places,
            window=options.window,
            scale=options.score_scale,
            dropout_rate=self.computing.dropout,
            dropout_key=dropout_key,
            kernel=self.computing.attention,
        )
        return self.out(attended.reshape(*rows, -1))

    def feed_forward(self, x: Float[Array, "r p d"]) -> Float[Array, "r p d"]:
        """`down(activation(gate(x)) * up(x))`, without norm and residual."""
        return self.down(gated(self.gate(x), self.up(x), self.options.activation))


class RotaryEncoder(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers.

    Args:
      embeddings: `ids [r, p] -> [r, p, d]`.
      layers: in the order in which they run.
      final_norm: applied after the last layer, if there is one.
      computing: dtype, dropout and what else the config does not say.
    """

    def __init__(
        self,
        embeddings: Callable[[Int[Array, "r p"]], Float[Array, "r p d"]],
        layers: Sequence[RotaryLayer],
        final_norm: Norm | None,
        computing: Computing,
    ) -> None:
        self.computing = computing
        self.embeddings = embeddings
        self.layers = nnx.Dict({str(i): layer for i, layer in enumerate(layers)})
        self.final_norm = final_norm

    def __call__(
        self, rows: TokenRows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings, and the last layer's pass the final norm."""
        depth, computing = len(self.layers), self.computing
        stack = [self.layers[str(i)] for i in range(depth)]
        # Sliding layers may have another rotary base: one pair of tables for each, shared by its layers.
        ropes = {layer.options.rope: layer.options.head_dim for layer in stack}
        tables = {rope: rope_tables(rows.positions, head_dim, rope) for rope, head_dim in ropes.items()}
        first, *rest = keys(dropout_key, 1 + depth)
        done = run_layers(
            stack,
            lambda layer, x, key: layer(x, rows.places, tables[layer.options.rope], dropout_key=key),
            dropout(self.embeddings(rows.ids), computing.dropout, first),
            rest,
            wanted=layers,
            remat=computing.remat,
            scan=computing.scan,
        )
        if depth in done:
            done[depth] = _normed(done[depth], self.final_norm)
        return {layer: x.astype(computing.dtype) for layer, x in done.items()}


def _normed(x: Float[Array, "*n d"], norm: Norm | None) -> Float[Array, "*n d"]:
    """`x` normalized, or as it is where a layer has no norm."""
    return x if norm is None else norm(x)


LLAMA_LAYER = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "out",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
}
"""Names of the parts of Llama's layers, which many architectures have."""

HEAD_NORMS = {"self_attn.q_norm": "query_norm", "self_attn.k_norm": "key_norm"}
"""Names of the norms of queries and keys, where there are any."""


def llama_table(config: PreNormConfig, names: Mapping[str, str], *, mlp_bias: bool = False) -> list[Weight]:
    """The weight table of a Llama: embeddings, layer by layer, the final norm.

    Args:
      config: has the number of layers and `attention_bias`.
      names: parts of a layer, Hugging Face's name -> ours.
      mlp_bias: whether feed-forward matrices have biases.
    """
    rows = [Weight("embed_tokens.weight", "embeddings.words")]
    for i in range(config.num_hidden_layers):
        for hf, ours in names.items():
            if ours.endswith("norm"):
                rows += norm_rows(f"layers.{i}.{hf}", f"layers.{i}.{ours}", bias=False)
            else:
                biased = mlp_bias if hf.startswith("mlp.") else config.attention_bias
                rows += linear_rows(f"layers.{i}.{hf}", f"layers.{i}.{ours}", bias=biased)
    return rows + norm_rows("norm", "final_norm", bias=False)
