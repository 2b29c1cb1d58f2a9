"""Match the margin between the scores of a query's document and a hard negative."""

__all__ = ["ScoreMarginMSE", "score_margin_mse"]

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import LossConfig, Needs, queries_of, student_and_teacher
from jdistill.losses.maths import Similarity, float32, unit
from jdistill.losses.scores.operands import Targets
from jdistill.types import LossInputs, Side


class ScoreMarginMSE(LossConfig):
    """Squared difference between the student's and the teacher's margin over each hard negative."""

    kind: Literal["score_margin_mse"] = "score_margin_mse"
    papers = ("arXiv:2010.02666",)
    targets: Targets = "vectors"
    """Source of the teacher's margins: its vectors on disk (vectors), or the data (scores): one score per document, or
    one margin per hard negative."""
    similarity: Similarity = "dot"
    """How two texts are scored. Margins of cosines never exceed 2, so they cannot match a cross-encoder's."""

    @override
    def needs(self) -> Needs:
        return Needs(teacher=self.targets == "vectors", batch=False)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Mean over the hard negatives of each row.

        Raises:
          UserError: if the rows have no queries or hard negatives, or given scores are missing.
        """
        if not inputs.student.negatives.shape[1]:
            raise UserError(
                "score_margin_mse compares a document with hard negatives, but these rows have none. Name their "
                "columns under data.<source>.columns, or use a loss that needs none, such as score_kl."
            )
        ours = self._margins(inputs.student)
        if self.targets == "scores":
            return score_margin_mse(ours, given_margins(inputs))
        return score_margin_mse(ours, self._margins(student_and_teacher(inputs)[1]))

    def _margins(self, side: Side) -> Float[Array, "b k"]:
        queries = queries_of(side.queries, self.kind)
        return margins(queries, side.documents, side.negatives, similarity=self.similarity)


def margins(
    queries: Float[Array, "b d"],
    documents: Float[Array, "b d"],
    negatives: Float[Array, "b k d"],
    *,
    similarity: Similarity,
) -> Float[Array, "b k"]:
    """How much higher each query scores its document than each of its hard negatives, float32.

    Vectors are subtracted before the product: if a hard negative is close to the document, the difference of two scores
    would cancel.
    """
    q, documents, negatives = (unit(x, similarity) for x in (queries, documents, negatives))
    return jnp.sum(q[:, None] * (documents[:, None] - negatives), axis=-1)


def given_margins(inputs: LossInputs) -> Float[Array, "b k"]:
    """The data's margins; from scores per document, the first minus each other. Not finite where a score is -inf.

    Raises:
      UserError: if there are no scores, or neither one per document nor one per hard negative.
    """
    k = inputs.student.negatives.shape[1]
    if inputs.scores is None or inputs.scores.shape[1] not in (k, k + 1):
        found = "no scores" if inputs.scores is None else f"{inputs.scores.shape[1]} scores"
        raise UserError(
            f"score_margin_mse with targets: scores learns from the margin of each of a row's {k} hard negatives, or "
            f"from the scores of all its {k + 1} documents, but these rows have {found}. Name a column of {k} or "
            f"{k + 1} numbers as score under data.<source>.columns, or set targets: vectors to take the margins from "
            "the teacher's vectors."
        )
    scores = float32(inputs.scores)
    return scores if scores.shape[1] == k else scores[:, :1] - scores[:, 1:]


def score_margin_mse(student: Float[Array, "b k"], teacher: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Match the teacher's margins, not its scores.

    The scores of a cross-encoder have a different offset for every query; margins do not.
        loss_i = mean_j ((s_i+ - s_ij) - (t_i+ - t_ij))^2

    Args:
      student: the student's score of each row's document minus that of each hard negative, `[b, k]`.
      teacher: the teacher's, in the same units. Hard negatives with infinity or NaN are excluded.

    Returns:
      Mean over the row's hard negatives, `[b]`; 0 if all are excluded.

    Source:
      Hofstaetter et al. 2020, arXiv:2010.02666, the Margin-MSE loss.
      Parity: sentence-transformers MarginMSELoss.

    Example:
      >>> score_margin_mse(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])).tolist()
      [4.5]
    """
    student, teacher = float32(student), lax.stop_gradient(float32(teacher))
    kept = jnp.isfinite(teacher)
    squares = jnp.square(jnp.where(kept, student - jnp.where(kept, teacher, 0.0), 0.0))
    return squares.sum(axis=1) / jnp.maximum(float32(kept).sum(axis=1), 1.0)
