"""BERT: post-norm transformer encoder with absolute positions. The whole architecture is in this file.

Source: Devlin et al. 2019, arXiv:1810.04805; layer by layer as transformers' `BertModel` computes it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from jdistill.config import UserError
from jdistill.student.attention import attention
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.layers import ACTIVATIONS, dropout, keys, lookup
from jdistill.student.modules import LayerNorm, Linear, linear_rows, norm_rows, normal
from jdistill.student.packing import Rows
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
        ("tiny", 2, 128, 512, 2),
        ("mini", 4, 256, 1024, 4),
        ("small", 4, 512, 2048, 8),
        ("medium", 8, 512, 2048, 8),
        ("base", 12, 768, 3072, 12),
        ("minilm-l6", 6, 384, 1536, 12),
        ("minilm-l12", 12, 384, 1536, 12),
    )
}
"""Turc et al. 2019, arXiv:1908.08962, table 1; Wang et al. 2020, arXiv:2002.10957, and its cut to 6 layers."""


class BertConfig(EncoderConfig):
    """Sizes of a BERT, named as in Hugging Face's `config.json`."""

    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = SIZES
    hf_prefix: ClassVar[str] = "bert."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.position_ids",
        r"embeddings\.token_type_ids",
        r"pooler\..*",
        r"cls\..*",
        r"classifier\..*",
        r"qa_outputs\..*",
    )

    kind: Literal["bert"] = "bert"
    vocab_size: int = Field(default=30522, ge=1)
    """Tokens."""
    hidden_size: int = Field(default=384, ge=1)
    """Width of a token's vector."""
    num_hidden_layers: int = Field(default=6, ge=1)
    """Depth."""
    num_attention_heads: int = Field(default=12, ge=1)
    """Heads; they share the width equally."""
    intermediate_size: int = Field(default=1536, ge=1)
    """Width inside the feed-forward part."""
    max_position_embeddings: int = Field(default=512, ge=1)
    """Longest input in tokens."""
    type_vocab_size: int = Field(default=2, ge=1)
    """Rows of the token-type table, of which single texts use the first."""
    hidden_act: Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "swish"] = "gelu"
    """Activation; `gelu` is the exact one."""
    layer_norm_eps: float = Field(default=1e-12, gt=0)
    """Added to variances."""
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of random weights."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "BertConfig":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide over {self.num_attention_heads} attention heads. "
                "Make it a multiple."
            )
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

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "BertConfig":
        """As the base class says. Dropout rates are left out: a student is trained without, unless told otherwise."""
        if hf.get("position_embedding_type", "absolute") != "absolute" or hf.get("is_decoder", False):
            raise UserError(
                f"{where}: this BERT has relative positions or is a decoder; only the plain encoder is supported."
            )
        if hf.get("hidden_act", "gelu") not in ACTIVATIONS:
            raise UserError(f"{where}: hidden_act is {hf['hidden_act']!r}, expected one of {', '.join(ACTIVATIONS)}.")
        return cls(**{name: hf[name] for name in cls.model_fields if name not in ("kind", "size") and name in hf})

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `BertModel`."""
        return {"architectures": ["BertModel"], "model_type": "bert", **self.model_dump(exclude={"kind"})}

    def weights(self) -> list[Weight]:
        """Embeddings, then layer by layer. The pooler is not part of a text's vector."""
        tables = {"word_embeddings": "words", "position_embeddings": "positions", "token_type_embeddings": "types"}
        rows = [Weight(f"embeddings.{key}.weight", f"embeddings.{path}") for key, path in tables.items()]
        rows += norm_rows("embeddings.LayerNorm", "embeddings.norm")
        for i in range(self.num_hidden_layers):
            hf, ours = f"encoder.layer.{i}", f"layers.{i}"
            for name in ("query", "key", "value"):
                rows += linear_rows(f"{hf}.attention.self.{name}", f"{ours}.{name}")
            rows += linear_rows(f"{hf}.attention.output.dense", f"{ours}.out")
            rows += norm_rows(f"{hf}.attention.output.LayerNorm", f"{ours}.attention_norm")
            rows += linear_rows(f"{hf}.intermediate.dense", f"{ours}.up")
            rows += linear_rows(f"{hf}.output.dense", f"{ours}.down")
            rows += norm_rows(f"{hf}.output.LayerNorm", f"{ours}.output_norm")
        return rows

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "Bert":
        """A `Bert`."""
        return Bert(self, computing, rngs=rngs)


class Embeddings(nnx.Module):
    """Word + position + type, normalised."""

    def __init__(self, config: BertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        std, width = config.initializer_range, config.hidden_size
        self.words = nnx.Param(normal(rngs, std, config.vocab_size, width))
        self.positions = nnx.Param(normal(rngs, std, config.max_position_embeddings, width))
        self.types = nnx.Param(normal(rngs, std, config.type_vocab_size, width))
        self.norm = LayerNorm(width, config.layer_norm_eps)

    def __call__(self, rows: Rows) -> Float[Array, "r p d"]:
        """`ids [r, p] -> [r, p, d]`."""
        # Positions count from the start of the text, left padding included: so does BERT.
        # Padding may reach beyond the last position; what stands there is never looked at.
        places = jnp.minimum(rows.positions, self.positions.shape[0] - 1)
        dtype = self.computing.dtype
        shared = (self.types[...][:1][None] + self.positions[...][places]).astype(dtype)
        return self.norm(lookup(self.words[...], rows.ids, dtype) + shared)


class Layer(nnx.Module):
    """Attention and feed-forward, each added to its input and then normalised."""

    def __init__(self, config: BertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.heads, self.activation = config.num_attention_heads, config.hidden_act
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.query, self.key, self.value, self.out = (Linear(width, width, std=std, rngs=rngs) for _ in range(4))
        self.up = Linear(width, inner, std=std, rngs=rngs)
        self.down = Linear(inner, width, std=std, rngs=rngs)
        self.attention_norm, self.output_norm = (LayerNorm(width, config.layer_norm_eps) for _ in range(2))

    def __call__(
        self, x: Float[Array, "r p d"], places: Bool[Array, "r p"] | Int[Array, "r p"], *, dropout_key: Array | None
    ) -> Float[Array, "r p d"]:
        """The same shape; padding is not attended, nor is another text."""
        weights_key, attended_key, output_key = keys(dropout_key, 3)
        rate = self.computing.dropout
        q, k, v = (part(x).reshape(*x.shape[:2], self.heads, -1) for part in (self.query, self.key, self.value))
        attended = attention(
            q, k, v, places, dropout_rate=rate, dropout_key=weights_key, kernel=self.computing.attention
        ).reshape(x.shape)
        x = self.attention_norm(x + dropout(self.out(attended), rate, attended_key))
        inner = ACTIVATIONS[self.activation](self.up(x))
        return self.output_norm(x + dropout(self.down(inner), rate, output_key))


class Bert(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` of each layer that is asked for."""

    def __init__(self, config: BertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.embeddings = Embeddings(config, computing, rngs=rngs)
        self.layers = nnx.Dict({str(i): Layer(config, computing, rngs=rngs) for i in range(config.num_hidden_layers)})

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`, 0 being the embeddings."""
        first, *rest = keys(dropout_key, 1 + len(self.layers))
        return run_layers(
            [self.layers[str(i)] for i in range(len(self.layers))],
            lambda layer, x, key: layer(x, rows.places, dropout_key=key),
            dropout(self.embeddings(rows), self.computing.dropout, first),
            rest,
            wanted=layers,
            remat=self.computing.remat,
            scan=self.computing.scan,
        )
