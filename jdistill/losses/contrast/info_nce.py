"""InfoNCE: pick each query's document out of all documents of the batch."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat

from jdistill.config import UserError
from jdistill.losses.base import LossConfig
from jdistill.losses.maths import Similarity, scores
from jdistill.types import View


class InfoNCE(LossConfig):
    """Cross-entropy of each query's document among all documents and hard negatives of the batch."""

    kind: Literal["info_nce"] = "info_nce"
    temperature: PositiveFloat = 0.05
    """Divides the scores; usually 0.01 to 0.1 for cosine and 1 for dot products."""
    similarity: Similarity = "cosine"
    """How a query is scored against a document."""

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Loss of each row.

        Raises:
          UserError: if the rows are plain texts.
        """
        s = view.student
        if s.queries is None:
            raise UserError(
                "info_nce picks a query's document out of the batch, but these rows are plain texts without queries. "
                "Name a query column under data.<source>.columns, or use a loss that needs none, such as embed_cosine."
            )
        return info_nce(s.queries, s.all_documents, view.rows, temperature=self.temperature, similarity=self.similarity)


def info_nce(
    queries: Float[Array, "b d"],
    candidates: Float[Array, "c d"],
    positives: Int[Array, " b"],
    *,
    temperature: float,
    similarity: Similarity = "cosine",
) -> Float[Array, " b"]:
    """Score each query's own document above every other document of the batch.

    The usual contrastive loss of retrieval; it needs no teacher. Larger batches and hard negatives make it harder.
        loss_i = logsumexp_j(s_ij) - s_i,pos(i),   s_ij = sim(q_i, c_j) / temperature

    Args:
      queries: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: documents of the whole batch, hard negatives included, `[c, d]`.
      positives: column of each row's own document, `[b]`, values in `[0, c)`.
      temperature: divides the scores; dimensionless, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.

    Returns:
      Loss of each row in nats, `[b]`; the caller averages.

    Source:
      van den Oord et al. 2018, arXiv:1807.03748, equation 4, with f = exp(s).
      Parity: sentence-transformers MultipleNegativesRankingLoss(scale=1/temperature).

    Example:
      >>> round(float(info_nce(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=1.0).mean()), 4)
      0.3133
    """
    logits = scores(queries, candidates, similarity=similarity) / temperature
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, positives[:, None], axis=1)[:, 0]
