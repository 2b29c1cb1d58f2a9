"""SPLADE: a masked language model says of every token of the vocabulary how well it would fit the text."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.layers import dense
from jdistill.student.masked_lm import masked_lm
from jdistill.student.packing import Rows
from jdistill.student.pooling.base import PoolingModule, PoolingParams
from jdistill.student.weights import Weight

HELD = 1 << 22
"""Scores that are held at a time: 16 MiB, and as much of a few intermediate results. Larger blocks are not faster."""


class Splade(PoolingModule):
    """The scores of a masked language model at each token of the text, saturated, and of these the largest.

        out[v] = max_t log(1 + relu(z_tv)),   z = scores of the vocabulary at the text's tokens

    Other than `sparse_vocabulary` it gives weight to words that the text does not have. Scores are computed for some
    of the vocabulary at a time, forward and backward: no more than 16 MiB of them are ever held, while all of them
    would take tokens x vocabulary x 4 bytes, 2 GB for 64 texts of 256 tokens.

    Source:
      Formal et al. 2021 (SPLADE v2), arXiv:2109.10086, eq. 1 and 6; `strategy: sum` is arXiv:2107.05720.
      Parity: sentence-transformers SpladePooling on a masked language model, whose names for the options are
      `pooling_strategy` and `activation_function`.
    """

    sparse: ClassVar[bool] = True
    module: ClassVar[str] = "SpladePooling"

    kind: Literal["splade"] = "splade"
    strategy: Literal["max", "sum"] = "max"
    """How the tokens' values become one."""
    activation: Literal["relu", "log1p_relu"] = "relu"
    """`log1p_relu` takes the logarithm twice, `log(1 + log(1 + relu(z)))`, for vectors that are sparser still
    (arXiv:2504.14839)."""
    random_head: bool = False
    """Whether a student may start with a random head where `init` has none. Its scores mean nothing at first, and it
    needs far more training than a head that has been trained as a language model."""

    def width(self, encoder: EncoderConfig) -> int:
        """The size of the vocabulary."""
        return encoder.vocab_size

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """A random head, tied to the table of words."""
        return masked_lm(encoder, where="student.pooling: splade").init(encoder.width, encoder.vocab_size, key)

    def from_pretrained(
        self, encoder: EncoderConfig, tensors: Mapping[str, np.ndarray], *, where: str
    ) -> PoolingParams | None:
        """The head of a masked language model.

        Raises:
          UserError: if the model has none, and `random_head` is not set.
        """
        head = masked_lm(encoder, where="student.pooling: splade")
        words = next(row.key for row in encoder.weights() if row.path == "embeddings.words")
        params = head.read(tensors, words, where=where)
        if params is None and not self.random_head:
            raise UserError(
                f"student.pooling: splade needs the head of a masked language model, and {where} has none: its file "
                f"holds no {head.dense}. Start from a {head.architecture}, or set random_head: true to train one from "
                "the beginning."
            )
        return params

    def weights(self) -> list[Weight]:
        """None: the head lies with the encoder."""
        return []

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """With the names of sentence-transformers."""
        return {
            "pooling_strategy": self.strategy,
            "activation_function": self.activation,
            "word_embedding_dimension": encoder.vocab_size,
        }

    @classmethod
    def from_module(cls, config: Mapping[str, Any]) -> "Splade":
        """From the names of sentence-transformers."""
        return cls(strategy=config.get("pooling_strategy", "max"), activation=config.get("activation_function", "relu"))

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: Rows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n v"]:
        """As the class says; zeros for a text without any token."""
        x = masked_lm(encoder, where="student.pooling: splade").transform(hidden, params)
        table = params["decoder"] if "decoder" in params else encoder_params["embeddings"]["words"]
        size = table.shape[0]
        bias = params["bias"] if "bias" in params else jnp.zeros(size, jnp.float32)
        block = min(size, max(HELD // max(x.shape[0] * x.shape[1], 1), 1))
        count = -(-size // block)
        beyond = count * block - size
        parts = (
            jnp.pad(table, ((0, beyond), (0, 0))).reshape(count, block, -1),
            jnp.pad(bias, (0, beyond)).reshape(count, block),
        )
        reduce = self._largest if self.strategy == "max" else self._sum
        pooled = jax.lax.map(lambda part: reduce(x, part, rows), parts)
        return jnp.moveaxis(pooled, 0, 1).reshape(pooled.shape[1], -1)[:, :size]

    def _largest(
        self, x: Float[Array, "r p d"], part: tuple[Float[Array, "k d"], Float[Array, " k"]], rows: Rows
    ) -> Float[Array, "n k"]:
        """Of some of the vocabulary: the value of the token whose score is the largest, of equal ones the first.

        Saturation rises, so it is taken of the largest score alone. The backward pass needs to know which token that
        was and nothing else, so this is what is kept; the scores are not computed again.
        """

        @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("first"), prevent_cse=False)
        def largest(x: Array, words: Array, bias: Array) -> Array:
            scores = dense(x, words.T, bias)
            first = checkpoint_name(rows.foremost(jax.lax.stop_gradient(scores)), "first")
            return rows.total(jnp.where(rows.chosen(first), scores, 0.0))

        return _saturated(largest(x, *part), self.activation)

    def _sum(
        self, x: Float[Array, "r p d"], part: tuple[Float[Array, "k d"], Float[Array, " k"]], rows: Rows
    ) -> Float[Array, "n k"]:
        """Of some of the vocabulary: the sum over the tokens. The backward pass computes the scores again."""

        @partial(jax.checkpoint, prevent_cse=False)
        def total(x: Array, words: Array, bias: Array) -> Array:
            return rows.total(_saturated(dense(x, words.T, bias), self.activation))

        return total(x, *part)


def _saturated(scores: Float[Array, "*n"], activation: str) -> Float[Array, "*n"]:
    """`log(1 + relu(z))`, for `log1p_relu` twice; rises with `z`, so it may be taken of the largest alone."""
    once = jnp.log1p(jax.nn.relu(scores))
    return jnp.log1p(once) if activation == "log1p_relu" else once
