"""MPNet: BERT with positions that skip padding, no token types, and a learned relative attention bias.

Source: Song et al. 2020, arXiv:2004.09297; the bias is that of Raffel et al. 2020 (T5), arXiv:1910.10683, section 2.1;
equivalent to transformers' `MPNetModel`.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from pydantic import Field
from typing_extensions import override

from jdistill.config import parse
from jdistill.student.encoders.base import Computing, Epsilon, VocabSize, model_size
from jdistill.student.encoders.hf_config import BASE, refuse, same_named
from jdistill.student.encoders.post_norm import PostNorm, PostNormConfig, positions_from_mask, table
from jdistill.student.masked_lm import MaskedLM
from jdistill.student.modules import normal
from jdistill.student.packing import TokenRows
from jdistill.student.weights import Weight

PADDING = 1
"""Position of padding, independent of the tokenizer; positions of tokens start after it."""

BUCKETS = 32
"""Number of distance buckets, half for each direction; fixed in transformers, independent of `config.json`."""

FARTHEST = 128
"""Distances from here on share the last bucket."""

_DEFAULTS: Mapping[str, Any] = {**BASE, "max_position_embeddings": 512, "layer_norm_eps": 1e-12}
"""Hugging Face's defaults for missing keys of `config.json`."""


class MPNetConfig(PostNormConfig):
    """Sizes of an MPNet, named as in Hugging Face's `config.json`."""

    model_types: ClassVar[tuple[str, ...]] = ("mpnet",)
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "base": model_size(layers=12, width=768, intermediate=3072, heads=12),
    }
    hf_prefix: ClassVar[str] = "mpnet."
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.position_ids",
        r"(pooler|lm_head|classifier|qa_outputs)\..*",
    )

    kind: Literal["mpnet"] = "mpnet"
    vocab_size: VocabSize = 30527
    max_position_embeddings: int = Field(default=514, ge=PADDING + 2)
    """Rows of the position embedding table: maximum input length + 2."""
    layer_norm_eps: Epsilon = 1e-5

    @property
    @override
    def max_positions(self) -> int | None:
        return self.max_position_embeddings - PADDING - 1

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "MPNetConfig":
        refuse(hf, {"relative_attention_num_buckets": (BUCKETS,)}, where=where)
        return parse(cls, {**_DEFAULTS, **same_named(cls, hf)}, where=where)

    @override
    def to_hf(self) -> dict[str, Any]:
        return {"architectures": ["MPNetModel"], "model_type": "mpnet", **self.model_dump(exclude={"kind"})}

    @override
    def weights(self) -> list[Weight]:
        embeddings = {"word_embeddings": "words", "position_embeddings": "positions"}
        layer = {
            "attention.attn.q": "query",
            "attention.attn.k": "key",
            "attention.attn.v": "value",
            "attention.attn.o": "out",
            "attention.LayerNorm": "attention_norm",
            "intermediate.dense": "up",
            "output.dense": "down",
            "output.LayerNorm": "output_norm",
        }
        rows = table(embeddings, self.num_hidden_layers, "encoder.layer.{}", layer)
        return [*rows, Weight("encoder.relative_attention_bias.weight", "distance_bias")]

    @override
    def masked_lm(self) -> MaskedLM:
        return MaskedLM(
            "MPNetForMaskedLM",
            dense="lm_head.dense",
            norm="lm_head.layer_norm",
            bias="lm_head.bias",
            decoder="lm_head.decoder.weight",
            activation="gelu",  # independent of the encoder's
            epsilon=self.layer_norm_eps,
        )

    @override
    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "MPNet":
        return MPNet(self, computing, rngs=rngs)


class MPNet(PostNorm):
    """As BERT, but padding takes no position, and scores have a bias by distance, which all layers share."""

    def __init__(self, config: MPNetConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, computing, epsilon=config.layer_norm_eps, rngs=rngs)
        heads = config.num_attention_heads
        self.distance_bias = nnx.Param(normal(rngs, config.initializer_range, BUCKETS, heads))

    @override
    def positions(self, rows: TokenRows) -> Int[Array, "r p"]:
        return positions_from_mask(rows, PADDING)

    @override
    def score_bias(self, rows: TokenRows) -> Float[Array, "h p p"]:
        # Packed texts have no gaps, so distances within a row equal distances within the text.
        return bias_of_distances(self.distance_bias[...], rows.ids.shape[1])


def bias_of_distances(biases: Float[Array, "buckets h"], length: int) -> Float[Array, "h l l"]:
    """The relative position bias of the attention scores, per head, query and key.

    Args:
      biases: bias of each distance bucket and head.
      length: `l`, the length of a row.
    """
    distances = np.arange(1 - length, length)
    # A product with a one-hot matrix instead of a gather, whose gradient scatters into few rows and is slow on
    # parallel hardware.
    chosen = jnp.asarray(np.eye(BUCKETS, dtype=np.float32)[buckets_of(distances)])
    by_distance = jnp.pad((chosen @ biases).T, ((0, 0), (0, 1)))
    # Toeplitz matrix by reshaping: rows of width 2l - 1, cut from a sequence of period 2l, shift by one per row.
    repeated = jnp.tile(by_distance, (1, length))[:, : length * (2 * length - 1)]
    return repeated.reshape(-1, length, 2 * length - 1)[:, :, length - 1 :]


def buckets_of(distances: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The bucket of each distance, key position minus query position: exact when near, then logarithmic.

    Source: `relative_position_bucket` of transformers' MPNet, in the same float32 arithmetic.
    """
    half = BUCKETS // 2
    exact = half // 2
    apart = np.abs(distances)
    logarithm = np.log(np.maximum(apart, 1).astype(np.float32) / np.float32(exact))
    wide = exact + (logarithm / np.float32(math.log(FARTHEST / exact)) * np.float32(half - exact)).astype(np.int64)
    return np.where(apart < exact, apart, np.minimum(wide, half - 1)) + half * (distances > 0)
