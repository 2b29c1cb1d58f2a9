"""Shared by BERT-like encoders: embeddings and post-norm layers.

They differ in tensor names, in how positions are counted, in token types, and in attention biases.

Source: Devlin et al. 2019, arXiv:1810.04805; Vaswani et al. 2017, arXiv:1706.03762, section 3.1.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from jdistill.student.attention import attention
from jdistill.student.encoders.base import Computing, HiddenSize, InnerSize, LayerCount, TransformerConfig
from jdistill.student.encoders.hf_config import Activation
from jdistill.student.layers import ACTIVATIONS, dropout, keys, lookup
from jdistill.student.modules import LayerNorm, Linear, linear_rows, norm_rows, normal
from jdistill.student.packing import TokenRows
from jdistill.student.stack import run_layers
from jdistill.student.weights import Weight


class PostNormConfig(TransformerConfig):
    """Sizes, named as in BERT's `config.json`. A subclass adds `vocab_size` and the other members."""

    hidden_size: HiddenSize = 384
    num_hidden_layers: LayerCount = 6
    num_attention_heads: int = Field(default=12, ge=1)
    """Attention heads; must divide `hidden_size`."""
    intermediate_size: InnerSize = 1536
    max_position_embeddings: int = Field(default=512, ge=1)
    """Rows of the position embedding table."""
    hidden_act: Activation = "gelu"
    """Activation; `gelu` is exact, not the tanh approximation."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} attention heads. "
                "Make it a multiple."
            )
        return self


class Embeddings(nnx.Module):
    """Word + position + type embeddings, normalized."""

    def __init__(
        self, config: PostNormConfig, computing: Computing, *, epsilon: float, types: int | None, rngs: nnx.Rngs
    ) -> None:
        self.computing = computing
        std, width = config.initializer_range, config.hidden_size
        self.words = nnx.Param(normal(rngs, std, config.vocab_size, width))
        self.positions = nnx.Param(normal(rngs, std, config.max_position_embeddings, width))
        self.types = None if types is None else nnx.Param(normal(rngs, std, types, width))
        self.norm = LayerNorm(width, epsilon)

    def __call__(self, ids: Int[Array, "r p"], positions: Int[Array, "_ p"]) -> Float[Array, "r p d"]:
        """`ids [r, p] -> [r, p, d]`; `positions` has one row if all rows are equal."""
        # Padding may exceed the position table; its result is never used.
        added = self.positions[...][jnp.minimum(positions, self.positions.shape[0] - 1)]
        # Single texts have token type 0 throughout, so its vector is added everywhere.
        added = added if self.types is None else self.types[...][:1][None] + added
        dtype = self.computing.dtype
        return self.norm(lookup(self.words[...], ids, dtype) + added.astype(dtype))


class Layer(nnx.Module):
    """Attention and feed-forward with post-norm residuals."""

    def __init__(self, config: PostNormConfig, computing: Computing, *, epsilon: float, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.heads, self.activation = config.num_attention_heads, config.hidden_act
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.query, self.key, self.value, self.out = (Linear(width, width, std=std, rngs=rngs) for _ in range(4))
        self.up = Linear(width, inner, std=std, rngs=rngs)
        self.down = Linear(inner, width, std=std, rngs=rngs)
        self.attention_norm, self.output_norm = (LayerNorm(width, epsilon) for _ in range(2))

    def __call__(
        self,
        x: Float[Array, "r p d"],
        places: Bool[Array, "r p"] | Int[Array, "r p"],
        *,
        bias: Float[Array, "h p p"] | None,
        dropout_key: Array | None,
    ) -> Float[Array, "r p d"]:
        """The same shape; tokens attend only to tokens of the same text. `bias` is added to the scores."""
        # Dropout where transformers has it: of attention weights, and of both outputs before the residual.
        weights_key, attended_key, output_key = keys(dropout_key, 3)
        rate = self.computing.dropout
        q, k, v = (part(x).reshape(*x.shape[:2], self.heads, -1) for part in (self.query, self.key, self.value))
        attended = attention(
            q, k, v, places, bias=bias, dropout_rate=rate, dropout_key=weights_key, kernel=self.computing.attention
        ).reshape(x.shape)
        x = self.attention_norm(x + dropout(self.out(attended), rate, attended_key))
        inner = ACTIVATIONS[self.activation](self.up(x))
        return self.output_norm(x + dropout(self.down(inner), rate, output_key))


class PostNorm(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers.

    Args:
      config: the sizes.
      computing: dtype, dropout and what else the config does not say.
      epsilon: epsilon of layer norms.
      types: rows of the token type table; None: there is no such table.
      rngs: for random parameters.
    """

    def __init__(
        self,
        config: PostNormConfig,
        computing: Computing,
        *,
        epsilon: float,
        types: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.computing = computing
        self.embeddings = Embeddings(config, computing, epsilon=epsilon, types=types, rngs=rngs)
        numbers = range(config.num_hidden_layers)
        # By name, as in nested parameters and weight tables, whose paths are `layers.0...`.
        self.layers = nnx.Dict({str(i): Layer(config, computing, epsilon=epsilon, rngs=rngs) for i in numbers})

    def positions(self, rows: TokenRows) -> Int[Array, "_ p"]:
        """Index into the position embedding table at each place; one row if all rows are equal."""
        # As in BERT, positions count from the start of the row, including padding on the left.
        return rows.positions

    def score_bias(self, rows: TokenRows) -> Float[Array, "h p p"] | None:
        """Added to the attention scores of every layer."""
        return None

    def __call__(
        self, rows: TokenRows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings."""
        bias = self.score_bias(rows)
        first, *rest = keys(dropout_key, 1 + len(self.layers))
        return run_layers(
            [self.layers[str(i)] for i in range(len(self.layers))],
            lambda layer, x, key: layer(x, rows.places, bias=bias, dropout_key=key),
            dropout(self.embeddings(rows.ids, self.positions(rows)), self.computing.dropout, first),
            rest,
            wanted=layers,
            remat=self.computing.remat,
            scan=self.computing.scan,
        )


def positions_from_mask(rows: TokenRows, padding: int) -> Int[Array, "r p"]:
    """RoBERTa's positions: they start at `padding + 1`; `padding`, the id of the padding token, is its position.

    A padding token within a text, from a literal `<pad>`, also has position `padding` and is not counted.

    Parity: `create_position_ids_from_input_ids` of transformers' RoBERTa.
    """
    uncounted = rows.held & (rows.ids == padding)
    # Such tokens up to each place of the row; below, those before the text's first token, which belong to other texts
    # of a packed row, are subtracted.
    before = jnp.cumsum(uncounted, axis=1, dtype=jnp.int32) - uncounted.astype(jnp.int32)
    begins = jnp.maximum(jnp.arange(rows.ids.shape[1])[None] - rows.ordinals, 0)
    inside = before - jnp.take_along_axis(before, begins, axis=1)
    return jnp.where(rows.held & ~uncounted, rows.ordinals - inside + padding + 1, padding)


def table(embeddings: Mapping[str, str], depth: int, layer: str, names: Mapping[str, str]) -> list[Weight]:
    """The weight table: embeddings with their norm, then layer by layer.

    Args:
      embeddings: embedding tables, Hugging Face's name -> ours.
      depth: number of layers.
      layer: Hugging Face's name of a layer, with `{}` for its index.
      names: parts of a layer, Hugging Face's name -> ours.
    """
    rows = [Weight(f"embeddings.{hf}.weight", f"embeddings.{ours}") for hf, ours in embeddings.items()]
    rows += norm_rows("embeddings.LayerNorm", "embeddings.norm")
    for i in range(depth):
        for hf, ours in names.items():
            part = norm_rows if ours.endswith("norm") else linear_rows
            rows += part(f"{layer.format(i)}.{hf}", f"layers.{i}.{ours}")
    return rows


BERT_EMBEDDINGS = {"word_embeddings": "words", "position_embeddings": "positions", "token_type_embeddings": "types"}
"""Names of BERT's and RoBERTa's embedding tables."""

BERT_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}
"""Names of the parts of BERT's and RoBERTa's layers."""
