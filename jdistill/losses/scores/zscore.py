"""Match z-scored similarity matrices, that is, up to their mean and standard deviation.

These are of the whole batch's matrix, which no device stores. They follow from the means and Gram matrices of the
gathered vectors, so a device computes only its own rows of scores, without further communication.
"""

__all__ = ["ScoreZscore", "score_zscore"]

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat
from typing_extensions import override

from jdistill.losses.base import Needs, Streamed, student_and_teacher
from jdistill.losses.maths import Similarity, matmul, root, unit
from jdistill.losses.scores.mse import mean_squared_difference
from jdistill.losses.scores.operands import Candidates, operands
from jdistill.types import LossInputs

ROUNDING = 1e-6
"""Scores whose deviation relative to their mean is below this differ by float32 rounding only."""


class ScoreZscore(Streamed):
    """Squared difference between the student's and the teacher's z-scored similarities; widths may differ."""

    kind: Literal["score_zscore"] = "score_zscore"
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    candidates: Candidates = "documents"
    """Columns of the matrix: every row's document, or also the hard negatives."""
    eps: PositiveFloat = 1e-6
    """Added to the standard deviation of the scores; bounds the gradient if the student collapses."""

    @override
    def needs(self) -> Needs:
        return Needs(teacher=True)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Mean over the columns of each row of the matrix."""
        student, teacher = (operands(side, self.candidates) for side in student_and_teacher(inputs))
        return score_zscore(
            student.texts,
            student.candidates,
            teacher.texts,
            teacher.candidates,
            inputs.rows,
            similarity=self.similarity,
            eps=self.eps,
            block=self.block,
        )


def score_zscore(
    texts: Float[Array, "n d"],
    candidates: Float[Array, "m d"],
    teacher_texts: Float[Array, "n t"],
    teacher_candidates: Float[Array, "m t"],
    rows: Int[Array, " b"],
    *,
    similarity: Similarity = "cosine",
    eps: float = 1e-6,
    block: int = 512,
) -> Float[Array, " b"]:
    """Match the similarity of every two texts of the batch to the teacher's, up to mean and standard deviation.

    For a teacher with another spread of scores, whose absolute size means nothing to the student.
        loss_i = mean_j (z_ij(S) - z_ij(T))^2,   z(S) = (S - mean(S)) / (std(S) + eps)
    S and T are the `n x m` similarity matrices of the student and the teacher.

    Args:
      texts: the student's vectors of the whole batch's queries, `[n, d]`, any float; maths runs in float32.
      candidates: the student's vectors of the candidates, of the whole batch, `[m, d]`.
      teacher_texts: the teacher's vectors of `texts`; they get no gradient.
      teacher_candidates: the teacher's vectors of `candidates`.
      rows: the rows of the matrix to compute, `[b]`, values in `[0, n)`.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      eps: added to the (unbiased) standard deviations; in units of the scores, > 0.
      block: candidates scored at a time; affects memory and speed only.

    Returns:
      Mean over the columns of each row, `[b]`. If all scores of the batch are equal, as in a batch of one, their
      z-scores are 0, with no gradient.

    Source:
      The loss of the embedding-distillation project by approximated-intelligence, without `eps`, and with the
      batch's passages as columns; there a batch of one, or of equal rows, divides by zero.

    Example:
      >>> x, t = jnp.eye(2), jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> print(score_zscore(x, x, 3 * t, 3 * t, jnp.arange(2)).round(4), score_zscore(x, x, x, x, jnp.arange(2)))
      [0. 0.] [0. 0.]
    """
    student = zscore_factors(texts, candidates, rows, similarity=similarity, eps=eps)
    teacher = zscore_factors(teacher_texts, teacher_candidates, rows, similarity=similarity, eps=eps)
    return mean_squared_difference(*student, *teacher, teacher_similarity="dot", block=block)


def zscore_factors(
    texts: Float[Array, "n d"],
    candidates: Float[Array, "m d"],
    rows: Int[Array, " b"],
    *,
    similarity: Similarity,
    eps: float,
) -> tuple[Float[Array, "b e"], Float[Array, "m e"]]:
    """Vectors of rows and candidates, `e = d + 1`, whose inner products are the z-scores; see `score_zscore`.

    Mean and deviation follow without the matrix. With S = T C^T, T = 1 t^T + T' and C = 1 c^T + C', where t and c are
    means over rows:
        S_ij - mean(S) = t'_i.c_j + t.c'_j
        sum_ij (S_ij - mean(S))^2 = m sum_i (t'_i.c)^2 + n sum_j (t.c'_j)^2 + <T'^T T', C'^T C'>
    All three sums are non-negative, so nothing cancels even if all scores are nearly equal.
    """
    texts, candidates = unit(texts, similarity), unit(candidates, similarity)
    n, m = texts.shape[0], candidates.shape[0]
    text_mean, candidate_mean = texts.mean(axis=0, keepdims=True), candidates.mean(axis=0, keepdims=True)
    text_offsets, candidate_offsets = texts - text_mean, candidates - candidate_mean

    by_text = matmul(text_offsets, candidate_mean.T)
    by_candidate = matmul(text_mean, candidate_offsets.T)
    products = _sum_of_squared_products(text_offsets, candidate_offsets)
    # (S_ij - mean(S))^2 summed over i and j; the cross terms vanish, since offsets sum to 0.
    squares = m * jnp.sum(by_text**2) + n * jnp.sum(by_candidate**2) + products
    deviation = root(squares / max(n * m - 1, 1))

    mean = jnp.sum(text_mean * candidate_mean)
    all_equal = deviation <= ROUNDING * jnp.abs(mean)
    factor = jnp.where(all_equal, 0.0, 1 / (deviation + eps))
    # [t'_i f, 1] . [c_j, t.c'_j f] = f (t'_i.c_j + t.c'_j) = f (S_ij - mean(S)), with f the factor.
    of_rows = jnp.concatenate([text_offsets[rows] * factor, jnp.ones((rows.shape[0], 1))], axis=1)
    return of_rows, jnp.concatenate([candidates, by_candidate.T * factor], axis=1)


def _sum_of_squared_products(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, ""]:
    """`sum_ij (a_i.b_j)^2`, which is the inner product of the Gram matrices A^T A and B^T B.

    Either way has a matrix in memory: the scores, `n x m`, which are large for a large batch, or the Gram matrices,
    `d x d`, which would take 4 to 250 GB for sparse vectors over a vocabulary of 30,000 to 250,000. Use the smaller.
    """
    if a.shape[0] * b.shape[0] < a.shape[1] ** 2:
        return jnp.sum(jnp.square(matmul(a, b.T)))
    return jnp.sum(matmul(a.T, a) * matmul(b.T, b))
