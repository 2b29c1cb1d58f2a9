"""EuroBERT: a bidirectional Llama with pre-norm, RMS norms, rotary positions, grouped-query attention, and gates.

Source: Boizard et al. 2025, arXiv:2503.05500; equivalent to transformers' `EuroBertModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from jdistill.config import parse
from jdistill.student.attention import attention
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.encoders.hf_config import (
    DEFAULT_THETA,
    Activation,
    check_heads,
    read_rope,
    rope_scaling,
    same_named,
)
from jdistill.student.layers import dropout, gated, keys
from jdistill.student.modules import Linear, RMSNorm, TokenEmbedding, linear_rows, norm_rows
from jdistill.student.packing import Rows
from jdistill.student.rotary import RopeTables, rotate, turn
from jdistill.student.stack import run_layers
from jdistill.student.weights import Weight


class EuroBertConfig(EncoderConfig):
    """Sizes of a EuroBERT, named as in Hugging Face's `config.json`."""

    hf_prefix: ClassVar[str] = "model."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"lm_head\..*", r"dense\..*", r"classifier\..*")

    kind: Literal["eurobert"] = "eurobert"
    vocab_size: int = Field(default=128256, ge=1)
    """Vocabulary size."""
    hidden_size: int = Field(default=768, ge=1)
    """Hidden size."""
    num_hidden_layers: int = Field(default=12, ge=1)
    """Number of layers."""
    num_attention_heads: int = Field(default=12, ge=1)
    """Query heads."""
    num_key_value_heads: int | None = Field(default=None, ge=1)
    """Key-value heads, each shared by a group of query heads. Default: `num_attention_heads`."""
    head_dim: int | None = Field(default=None, ge=2)
    """Width of a head. Default: `hidden_size / num_attention_heads`."""
    intermediate_size: int = Field(default=3072, ge=1)
    """Width of the feed-forward layer."""
    max_position_embeddings: int = Field(default=8192, ge=1)
    """Maximum input length in tokens."""
    rope_theta: float = Field(default=250_000.0, gt=0)
    """Rotary base."""
    rope_factor: float = Field(default=1.0, gt=0)
    """Positions are divided by this factor (linear scaling)."""
    hidden_act: Activation = "silu"
    """Activation of the feed-forward gate."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon of RMS norms."""
    attention_bias: bool = False
    """Whether attention projections have biases."""
    mlp_bias: bool = False
    """Whether feed-forward matrices have biases."""
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of randomly initialised weights."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "EuroBertConfig":
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        check_heads(self.hidden_size, heads, shared=shared, head_dim=self.head_dim, divides=True)
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
    def head_width(self) -> int:
        """`head_dim`, or `hidden_size / num_attention_heads`."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "EuroBertConfig":
        """Ignores dropout rates; set `student.dropout`."""
        theta = hf.get("rope_theta") or DEFAULT_THETA
        rope = read_rope(hf.get("rope_scaling") or hf.get("rope_parameters"), theta, where=where)
        given = same_named(cls, hf) | {"rope_theta": rope.theta, "rope_factor": rope.factor}
        return parse(cls, given, where=where)._resolved()

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `EuroBertModel`."""
        plain = self._resolved().model_dump(exclude={"kind", "rope_factor"})
        named = {"architectures": ["EuroBertModel"], "model_type": "eurobert"}
        return {**named, **plain, "rope_scaling": rope_scaling(self.rope_factor), "pad_token_id": None}

    def _resolved(self) -> "EuroBertConfig":
        heads = self.num_key_value_heads or self.num_attention_heads
        return self.model_copy(update={"num_key_value_heads": heads, "head_dim": self.head_width})

    def weights(self) -> list[Weight]:
        """Embeddings, layer by layer, the final norm."""
        rows = [Weight("embed_tokens.weight", "embeddings.words")]
        for i in range(self.num_hidden_layers):
            at = f"layers.{i}"
            for hf, ours in {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}.items():
                rows += linear_rows(f"{at}.self_attn.{hf}", f"{at}.{ours}", bias=self.attention_bias)
            for name in ("gate", "up", "down"):
                rows += linear_rows(f"{at}.mlp.{name}_proj", f"{at}.{name}", bias=self.mlp_bias)
            rows += norm_rows(f"{at}.input_layernorm", f"{at}.attention_norm", bias=False)
            rows += norm_rows(f"{at}.post_attention_layernorm", f"{at}.mlp_norm", bias=False)
        return rows + norm_rows("norm", "final_norm", bias=False)

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "EuroBert":
        """A `EuroBert`."""
        return EuroBert(self, computing, rngs=rngs)


class Layer(nnx.Module):
    """Attention and gated feed-forward with pre-norm residuals."""

    def __init__(self, config: EuroBertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim, self.activation = config.head_width, config.hidden_act
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        biased, mlp_biased = config.attention_bias, config.mlp_bias
        heads = config.num_attention_heads * self.head_dim
        shared = (config.num_key_value_heads or config.num_attention_heads) * self.head_dim
        self.query = Linear(width, heads, std=std, rngs=rngs, bias=biased)
        self.key, self.value = (Linear(width, shared, std=std, rngs=rngs, bias=biased) for _ in range(2))
        self.out = Linear(heads, width, std=std, rngs=rngs, bias=biased)
        self.gate, self.up = (Linear(width, inner, std=std, rngs=rngs, bias=mlp_biased) for _ in range(2))
        self.down = Linear(inner, width, std=std, rngs=rngs, bias=mlp_biased)
        self.attention_norm, self.mlp_norm = (RMSNorm(width, config.rms_norm_eps) for _ in range(2))

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
            rotate(q, by),
            rotate(k, by),
            v,
            places,
            dropout_rate=rate,
            dropout_key=weights_key,
            kernel=self.computing.attention,
        ).reshape(*x.shape[:2], -1)
        x = x + dropout(self.out(attended), rate, attended_key)
        normed = self.mlp_norm(x)
        inner = gated(self.gate(normed), self.up(normed), self.activation)
        return x + dropout(self.down(inner), rate, output_key)


class EuroBert(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __init__(self, config: EuroBertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim, self.theta, self.factor = config.head_width, config.rope_theta, config.rope_factor
        std, dtype = config.initializer_range, computing.dtype
        self.embeddings = TokenEmbedding(config.vocab_size, config.hidden_size, std=std, dtype=dtype, rngs=rngs)
        self.layers = nnx.Dict({str(i): Layer(config, computing, rngs=rngs) for i in range(config.num_hidden_layers)})
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
