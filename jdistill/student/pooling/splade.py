"""SPLADE pooling: a masked language model's scores of the vocabulary, pooled over the tokens of a text."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.papers import Papers
from jdistill.student.encoders import masked_lm
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.layers import dense
from jdistill.student.packing import TokenRows
from jdistill.student.pooling.base import PoolingModule, PoolingParams
from jdistill.student.weights import Weight

HELD = 1 << 22
"""Scores per block, 16 MiB; a few intermediate results take as much each. Larger blocks are not faster."""


class Splade(PoolingModule):
    """The maximum over the text's tokens of a masked language model's saturated scores.

        out[v] = max_t log(1 + relu(z_tv)),   z = scores of the vocabulary at the text's tokens

    Unlike `sparse_vocabulary` it also gives weight to words that do not occur in the text. Scores are computed in
    blocks of the vocabulary, forward and backward, of at most 16 MiB; all at once they would take tokens x vocabulary
    x 4 bytes, 2 GB for 64 texts of 256 tokens.

    Source:
      Formal et al. 2021 (SPLADE v2), arXiv:2109.10086, eq. 1 and 6; `strategy: sum` is arXiv:2107.05720.
      Parity: sentence-transformers SpladePooling, which calls the options `pooling_strategy` and
      `activation_function`.
    """

    sparse: ClassVar[bool] = True
    module: ClassVar[str] = "SpladePooling"

    kind: Literal["splade"] = "splade"
    papers = ("arXiv:2107.05720",)
    strategy: Literal["max", "sum"] = "max"
    """How to reduce over the tokens of a text."""
    activation: Literal["relu", "log1p_relu"] = "relu"
    """`log1p_relu` takes the logarithm twice, `log(1 + log(1 + relu(z)))`, for sparser vectors (arXiv:2504.14839)."""
    random_head: bool = False
    """Whether to start from a random language model head if `init` has none. It needs far more training than a
    pretrained head."""

    def cited(self) -> Papers:
        """Also SPLADE v2 for the maximum over tokens."""
        return (*self.papers, *(["arXiv:2109.10086"] if self.strategy == "max" else []))

    def width(self, encoder: EncoderConfig) -> int:
        """The size of the vocabulary."""
        return encoder.vocab_size

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """A random head, with a decoder tied to the word embeddings."""
        return masked_lm(encoder, where="student.pooling: splade").init(encoder.width, encoder.vocab_size, key)

    def from_pretrained(
        self, encoder: EncoderConfig, tensors: Mapping[str, np.ndarray], *, where: str
    ) -> PoolingParams | None:
        """The masked language model head of the model.

        Raises:
          UserError: if the model has none and `random_head` is not set.
        """
        head = masked_lm(encoder, where="student.pooling: splade")
        words = next(row.key for row in encoder.weights() if row.path == "embeddings.words")
        params = head.read(tensors, words, where=where)
        if params is None and not self.random_head:
            raise UserError(
                f"student.pooling: splade needs the head of a masked language model, but {where} has no "
                f"{head.dense}. Start from a {head.architecture}, or set random_head: true to train one from scratch."
            )
        return params

    def weights(self) -> list[Weight]:
        """None: the head's weights are in the encoder's file."""
        return []

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """The options under their names in sentence-transformers."""
        return {
            "pooling_strategy": self.strategy,
            "activation_function": self.activation,
            "word_embedding_dimension": encoder.vocab_size,
        }

    @classmethod
    def from_module(cls, config: Mapping[str, Any]) -> "Splade":
        """From the options under their names in sentence-transformers."""
        return cls(strategy=config.get("pooling_strategy", "max"), activation=config.get("activation_function", "relu"))

    @classmethod
    def module_type(cls) -> str:
        """The class in sentence-transformers."""
        return f"sentence_transformers.sparse_encoder.models.{cls.module}"

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: TokenRows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n v"]:
        """`[n, vocabulary]` weights; zeros for a text without tokens."""
        x = masked_lm(encoder, where="student.pooling: splade").transform(hidden, params)
        table = params["decoder"] if "decoder" in params else encoder_params["embeddings"]["words"]
        size = table.shape[0]
        bias = params["bias"] if "bias" in params else jnp.zeros(size, jnp.float32)
        block = min(size, max(HELD // max(x.shape[0] * x.shape[1], 1), 1))
        count = -(-size // block)
        beyond = count * block - size  # padding to whole blocks, cut off below
        parts = (
            jnp.pad(table, ((0, beyond), (0, 0))).reshape(count, block, -1),
            jnp.pad(bias, (0, beyond)).reshape(count, block),
        )
        reduce = self._largest if self.strategy == "max" else self._sum
        # A loop, so that the scores of only one block are in memory: `map` runs its steps one after the other.
        pooled = jax.lax.map(lambda part: reduce(x, part, rows), parts)
        return jnp.moveaxis(pooled, 0, 1).reshape(pooled.shape[1], -1)[:, :size]

    def _largest(
        self, x: Float[Array, "r p d"], part: tuple[Float[Array, "k d"], Float[Array, " k"]], rows: TokenRows
    ) -> Float[Array, "n k"]:
        """The maximum over tokens, for a block of the vocabulary; ties go to the first token.

        Saturation is monotonic, so it is applied to the largest score only. The backward pass needs only the position
        of the maximum, so only that is saved, and the scores are not recomputed.
        """

        # `prevent_cse` guards against XLA merging the recomputation with the forward pass, which a loop rules out
        # anyway.
        @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("first"), prevent_cse=False)
        def largest(x: Array, words: Array, bias: Array) -> Array:
            scores = dense(x, words.T, bias)
            first = checkpoint_name(rows.foremost(jax.lax.stop_gradient(scores)), "first")
            # The sum has one term other than 0. Its derivative needs only the mask, so the scores' recomputation is
            # dropped.
            return rows.total(jnp.where(rows.chosen(first), scores, 0.0))

        return _saturated(largest(x, *part), self.activation)

    def _sum(
        self, x: Float[Array, "r p d"], part: tuple[Float[Array, "k d"], Float[Array, " k"]], rows: TokenRows
    ) -> Float[Array, "n k"]:
        """The sum over tokens, for a block of the vocabulary. The backward pass recomputes the scores."""

        @partial(jax.checkpoint, prevent_cse=False)
        def total(x: Array, words: Array, bias: Array) -> Array:
            return rows.total(_saturated(dense(x, words.T, bias), self.activation))

        return total(x, *part)


def _saturated(scores: Float[Array, "*n"], activation: str) -> Float[Array, "*n"]:
    """`log(1 + relu(z))`, or its double logarithm for `log1p_relu`; monotonic in `z`."""
    once = jnp.log1p(jax.nn.relu(scores))
    return jnp.log1p(once) if activation == "log1p_relu" else once
