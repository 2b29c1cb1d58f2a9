"""Mega-batch margin: the only negative is the document of the batch nearest to the query."""

__all__ = ["MegaBatchMargin", "mega_batch_margin"]

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from typing_extensions import override

from jdistill.losses.base import LossConfig, queries_of
from jdistill.losses.blocks import over_rows
from jdistill.losses.maths import matmul, normalise
from jdistill.types import LossInputs

ROWS = 256
"""Queries scored at a time; affects memory and speed only."""


class MegaBatchMargin(LossConfig):
    """Cosine of the own document above one margin, of the nearest other document of the batch below another."""

    kind: Literal["mega_batch_margin"] = "mega_batch_margin"
    papers = ("doi:10.18653/v1/P18-1042",)
    positive_margin: float = 0.8
    """Cosine of a query and its own document at or above which the pair contributes 0."""
    negative_margin: float = 0.3
    """Cosine of a query and the nearest other document at or below which it contributes 0."""

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row; hard negatives count as further documents of the batch.

        Raises:
          UserError: if the rows are plain texts.
        """
        return mega_batch_margin(
            queries_of(inputs.student.queries, self.kind),
            inputs.student.all_documents,
            inputs.rows,
            positive_margin=self.positive_margin,
            negative_margin=self.negative_margin,
        )


def mega_batch_margin(
    queries: Float[Array, "b d"],
    candidates: Float[Array, "c d"],
    positives: Int[Array, " b"],
    *,
    positive_margin: float = 0.8,
    negative_margin: float = 0.3,
) -> Float[Array, " b"]:
    """Pull each query to its own document, and push it from the hardest other one.

    The larger the batch, the harder the hardest negative: meant for batches of thousands of pairs, which
    `train.microbatches` encodes in microbatches with the same result.
        loss_i = relu(positive_margin - cos(q_i, d_i)) + relu(max_{j != i} cos(q_i, d_j) - negative_margin)

    Args:
      queries: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: documents of the whole batch, hard negatives included, `[c, d]`.
      positives: column of each row's own document, `[b]`.
      positive_margin: minimum cosine of own pairs.
      negative_margin: maximum cosine of other pairs.

    Returns:
      Value of each row, `[b]`, >= 0; in a batch of one pair the second part is 0.

    Source:
      Wieting and Gimpel 2018, doi:10.18653/v1/P18-1042, section 3.1, with a margin for each part.
      Parity: sentence-transformers MegaBatchMarginLoss, mini-batched or not, for rows without hard negatives, which it
      does not support.

    Example:
      >>> mega_batch_margin(jnp.eye(2), jnp.eye(2), jnp.arange(2), negative_margin=-0.5).tolist()
      [0.5, 0.5]
    """
    documents = normalise(candidates)

    def values(rows: tuple[Float[Array, "r d"], Int[Array, " r"]]) -> Float[Array, " r"]:
        cosines = matmul(rows[0], documents.T)
        own = rows[1][:, None] == jnp.arange(len(documents))[None]
        # One column of each row is its own, so the masked sum is that cosine. In a batch of one pair no other is left:
        # `hardest` is -inf, and the relu of it 0.
        near = jnp.sum(cosines, where=own, axis=1)
        others = jnp.where(own, -jnp.inf, cosines)
        nearest = jnp.argmax(others, axis=1)[:, None]  # of ties only one gets the gradient, as in torch
        hardest = jnp.take_along_axis(others, nearest, axis=1)[:, 0]
        return jax.nn.relu(positive_margin - near) + jax.nn.relu(hardest - negative_margin)

    return over_rows(values, (normalise(queries), positives), block=ROWS)
