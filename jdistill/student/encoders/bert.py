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
from jdistill.student.attention import ChosenKernel, attention
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.layers import ACTIVATIONS, dense, dropout, keys, layer_norm, lookup
from jdistill.student.packing import Rows, pack, unpack
from jdistill.student.weights import Weight
from jdistill.types import Tokens


class BertConfig(EncoderConfig):
    """Sizes of a BERT, named as in Hugging Face's `config.json`."""

    hf_prefix: ClassVar[str] = "bert."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.position_ids",
        r"embeddings\.token_type_ids",
        r"pooler\..*",
        r"cls\..*",
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
        return cls(**{name: hf[name] for name in cls.model_fields if name != "kind" and name in hf})

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `BertModel`."""
        return {"architectures": ["BertModel"], "model_type": "bert", **self.model_dump(exclude={"kind"})}

    def weights(self) -> list[Weight]:
        """Embeddings, then layer by layer. The pooler is not part of a text's vector."""
        tables = {"word_embeddings": "words", "position_embeddings": "positions", "token_type_embeddings": "types"}
        rows = [Weight(f"embeddings.{key}.weight", f"embeddings.{path}") for key, path in tables.items()]
        rows += _norm("embeddings.LayerNorm", "embeddings.norm")
        for i in range(self.num_hidden_layers):
            hf, ours = f"encoder.layer.{i}", f"layers.{i}"
            for name in ("query", "key", "value"):
                rows += _linear(f"{hf}.attention.self.{name}", f"{ours}.{name}")
            rows += _linear(f"{hf}.attention.output.dense", f"{ours}.out")
            rows += _norm(f"{hf}.attention.output.LayerNorm", f"{ours}.attention_norm")
            rows += _linear(f"{hf}.intermediate.dense", f"{ours}.up")
            rows += _linear(f"{hf}.output.dense", f"{ours}.down")
            rows += _norm(f"{hf}.output.LayerNorm", f"{ours}.output_norm")
        return rows

    def make_module(
        self, *, dtype: jnp.dtype, dropout: float, rngs: nnx.Rngs, attention: ChosenKernel = "auto"
    ) -> "Bert":
        """A `Bert`."""
        return Bert(self, dtype=dtype, dropout=dropout, kernel=attention, rngs=rngs)

    def keep_layers(self, params: dict[str, Any], layers: Sequence[int]) -> tuple["BertConfig", dict[str, Any]]:
        """The BERT that runs only these layers."""
        if any(not 0 <= layer < self.num_hidden_layers for layer in layers) or not layers:
            raise UserError(
                f"student.keep_layers: is {list(layers)}, but the model has {self.num_hidden_layers} layers. "
                f"Give at least one number from 0 to {self.num_hidden_layers - 1}."
            )
        kept = {str(i): params["layers"][str(layer)] for i, layer in enumerate(layers)}
        return self.model_copy(update={"num_hidden_layers": len(layers)}), {**params, "layers": kept}


def _linear(hf: str, ours: str) -> list[Weight]:
    return [Weight(f"{hf}.weight", f"{ours}.kernel", transpose=True), Weight(f"{hf}.bias", f"{ours}.bias")]


def _norm(hf: str, ours: str) -> list[Weight]:
    return [Weight(f"{hf}.weight", f"{ours}.scale"), Weight(f"{hf}.bias", f"{ours}.bias")]


class Linear(nnx.Module):
    """`x W + b`."""

    def __init__(self, config: BertConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(_normal(config, rngs, inputs, outputs))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "n l i"]) -> Float[Array, "n l o"]:
        """`[n, l, i] -> [n, l, o]`."""
        return dense(x, self.kernel[...], self.bias[...])


class Norm(nnx.Module):
    """Layer normalisation."""

    def __init__(self, config: BertConfig) -> None:
        self.epsilon = config.layer_norm_eps
        self.scale = nnx.Param(jnp.ones(config.hidden_size, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(config.hidden_size, jnp.float32))

    def __call__(self, x: Float[Array, "n l d"]) -> Float[Array, "n l d"]:
        """The same shape."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class Embeddings(nnx.Module):
    """Word + position + type, normalised."""

    def __init__(self, config: BertConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.dtype = dtype
        self.words = nnx.Param(_normal(config, rngs, config.vocab_size, config.hidden_size))
        self.positions = nnx.Param(_normal(config, rngs, config.max_position_embeddings, config.hidden_size))
        self.types = nnx.Param(_normal(config, rngs, config.type_vocab_size, config.hidden_size))
        self.norm = Norm(config)

    def __call__(self, rows: Rows) -> Float[Array, "n l d"]:
        """`ids [n, l] -> [n, l, d]`."""
        # Positions count from the start of the text, left padding included: so does BERT.
        # Padding may reach beyond the last position; what stands there is never looked at.
        places = jnp.minimum(rows.positions, self.positions.shape[0] - 1)
        shared = (self.types[...][:1][None] + self.positions[...][places]).astype(self.dtype)
        return self.norm(lookup(self.words[...], rows.ids, self.dtype) + shared)


class Layer(nnx.Module):
    """Attention and feed-forward, each added to its input and then normalised."""

    def __init__(self, config: BertConfig, *, dropout: float, kernel: ChosenKernel, rngs: nnx.Rngs) -> None:
        width = config.hidden_size
        self.kernel: ChosenKernel = kernel
        self.heads = config.num_attention_heads
        self.activation = config.hidden_act
        self.dropout = dropout
        self.query, self.key, self.value, self.out = (Linear(config, width, width, rngs=rngs) for _ in range(4))
        self.up = Linear(config, width, config.intermediate_size, rngs=rngs)
        self.down = Linear(config, config.intermediate_size, width, rngs=rngs)
        self.attention_norm, self.output_norm = Norm(config), Norm(config)

    def __call__(
        self, x: Float[Array, "n l d"], places: Bool[Array, "n l"] | Int[Array, "n l"], *, dropout_key: Array | None
    ) -> Float[Array, "n l d"]:
        """The same shape; padding is not attended, nor is another text."""
        weights_key, attended_key, output_key = keys(dropout_key, 3)
        q, k, v = (part(x).reshape(*x.shape[:2], self.heads, -1) for part in (self.query, self.key, self.value))
        attended = attention(
            q, k, v, places, dropout_rate=self.dropout, dropout_key=weights_key, kernel=self.kernel
        ).reshape(x.shape)
        x = self.attention_norm(x + dropout(self.out(attended), self.dropout, attended_key))
        inner = ACTIVATIONS[self.activation](self.up(x))
        return self.output_norm(x + dropout(self.down(inner), self.dropout, output_key))


class Bert(nnx.Module):
    """`Tokens [n, l] -> hidden [n, l, d]` of each layer that is asked for."""

    def __init__(
        self, config: BertConfig, *, dtype: jnp.dtype, dropout: float, kernel: ChosenKernel, rngs: nnx.Rngs
    ) -> None:
        self.dropout = dropout
        self.embeddings = Embeddings(config, dtype=dtype, rngs=rngs)
        # Unrolled, not scanned: students are shallow, and XLA's CPU backend runs the unrolled form faster.
        self.layers = nnx.Dict(
            {str(i): Layer(config, dropout=dropout, kernel=kernel, rngs=rngs) for i in range(config.num_hidden_layers)}
        )

    def __call__(
        self, tokens: Tokens, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> list[Float[Array, "n l d"]]:
        """Hidden states after each of `layers`, 0 being the embeddings."""
        rows = pack(tokens)
        first, *rest = keys(dropout_key, 1 + len(self.layers))
        hidden = [dropout(self.embeddings(rows), self.dropout, first)]
        for i, key in enumerate(rest[: max(layers)]):
            hidden.append(self.layers[str(i)](hidden[-1], rows.places, dropout_key=key))
        return [unpack(hidden[layer], tokens) for layer in layers]


def _normal(config: BertConfig, rngs: nnx.Rngs, *shape: int) -> Float[Array, "..."]:
    return config.initializer_range * rngs.params.normal(shape, jnp.float32)
