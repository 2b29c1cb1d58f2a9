"""Regression of the cosine of a pair on its label."""

__all__ = ["CosineSimilarity", "cosine_similarity"]

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import override

from jdistill.losses.base import LossConfig, Needs, queries_of
from jdistill.losses.labels.row_labels import pair_labels
from jdistill.losses.maths import absolute, cosine, float32
from jdistill.types import LossInputs, PairEmbeddings

Penalty = Literal["squared", "absolute"]


class CosineSimilarity(LossConfig):
    """Squared or absolute difference between the pair's cosine and its label."""

    kind: Literal["cosine_similarity"] = "cosine_similarity"
    papers = ("arXiv:1908.10084",)
    penalty: Penalty = "squared"
    """Squared error, or absolute error, which is less sensitive to a few wrong labels."""

    @override
    def needs(self) -> Needs:
        return Needs(batch=False)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts, or have not one score each.
        """
        queries, labels = queries_of(inputs.student.queries, self.kind), pair_labels(inputs.scores, self.kind)
        return cosine_similarity(queries, inputs.student.documents, labels, penalty=self.penalty)

    @override
    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Report scores outside the range of a cosine."""
        largest = 0.0 if scores is None or not scores.size else float(jnp.abs(scores).max())
        if largest <= 1:
            return []
        return [
            f"a score of the first batch has absolute value {largest:g}, but cosines are between -1 and 1. Divide the "
            "scores by their largest possible value, or use cosent, which depends on their order only."
        ]


def cosine_similarity(
    queries: Float[Array, "*b d"],
    documents: Float[Array, "*b d"],
    labels: Float[Array, "*b"],
    *,
    penalty: Penalty = "squared",
) -> Float[Array, "*b"]:
    """Regress the cosine of each pair on its label.

    For pairs scored by people on a scale comparable to a cosine. If only the order of the labels is reliable, `cosent`
    is better.
        loss_i = (cos(q_i, d_i) - y_i)^2, or |cos(q_i, d_i) - y_i|

    Args:
      queries: of these rows, `[b, d]`, any float; maths runs in float32.
      documents: the document of each query, `[b, d]`.
      labels: target cosine of each pair, `[b]`, in [-1, 1].
      penalty: `"squared"` or `"absolute"`.

    Returns:
      Value of each pair, `[b]`, >= 0; the cosine with a zero vector is 0.

    Source:
      Reimers and Gurevych 2019, arXiv:1908.10084, section 3, the regression objective.
      Parity: sentence-transformers CosineSimilarityLoss(), or with loss_fct=L1Loss().

    Example:
      >>> cosine_similarity(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]]), jnp.array([0.5])).tolist()
      [0.25]
    """
    error = cosine(queries, documents) - float32(labels)
    return PENALTIES[penalty](error)


PENALTIES = {"squared": jnp.square, "absolute": absolute}
