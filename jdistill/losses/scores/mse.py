"""Match similarity matrices entry by entry, in blocks of columns."""

__all__ = ["ScoreMSE", "score_mse"]

from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from typing_extensions import override

from jdistill.losses.base import Needs, Streamed, student_and_teacher
from jdistill.losses.blocks import sum_over
from jdistill.losses.maths import Similarity, matmul, unit
from jdistill.losses.scores.operands import Candidates, operands
from jdistill.types import LossInputs


class ScoreMSE(Streamed):
    """Squared difference between the student's and the teacher's similarities; widths may differ."""

    kind: Literal["score_mse"] = "score_mse"
    papers = ("arXiv:2412.19048",)
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    candidates: Candidates = "documents"
    """Columns of the matrix: every row's document, or also the hard negatives."""

    @override
    def needs(self) -> Needs:
        return Needs(teacher=True)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Mean over the columns of each row of the matrix."""
        student, teacher = (operands(side, self.candidates) for side in student_and_teacher(inputs))
        return score_mse(
            student.rows,
            student.candidates,
            teacher.rows,
            teacher.candidates,
            similarity=self.similarity,
            block=self.block,
        )


def score_mse(
    texts: Float[Array, "b d"],
    candidates: Float[Array, "m d"],
    teacher_texts: Float[Array, "b t"],
    teacher_candidates: Float[Array, "m t"],
    *,
    similarity: Similarity = "cosine",
    block: int = 512,
) -> Float[Array, " b"]:
    """Match the similarity of every two texts of the batch to the teacher's.

    Teacher and student may differ in width, so no projection is needed. Squared differences of cosines are small:
    beside embed_cosine with weight 10, Stella uses weight 200.
        loss_i = mean_j (s_i.c_j - t_i.u_j)^2

    Args:
      texts: the student's vectors of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: the student's vectors of the candidates, of the whole batch, `[m, d]`.
      teacher_texts: the teacher's vectors of `texts`; they get no gradient.
      teacher_candidates: the teacher's vectors of `candidates`.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      block: candidates scored at a time; affects memory and speed only.

    Returns:
      Mean over the columns of each row, `[b]`; in [0, 4] for cosines.

    Source:
      Zhang et al. 2024, arXiv:2412.19048, the similarity loss L_sim.
      Parity: pair_inbatch_similarity_loss of RAG-Retrieval's Stella distillation, for plain texts.

    Example:
      >>> x, t = jnp.eye(2), jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> round(float(score_mse(x, x, t, t).mean()), 4)
      0.18
    """
    student = unit(texts, similarity), unit(candidates, similarity)
    return mean_squared_difference(
        *student, teacher_texts, teacher_candidates, teacher_similarity=similarity, block=block
    )


def mean_squared_difference(
    texts: Float[Array, "b d"],
    candidates: Float[Array, "m d"],
    teacher_texts: Float[Array, "b t"],
    teacher_candidates: Float[Array, "m t"],
    *,
    teacher_similarity: Similarity,
    block: int,
) -> Float[Array, " b"]:
    """`mean_j (s_i.c_j - sim(t_i, u_j))^2` of each row, with no gradient for the teacher's t and u.

    The teacher's vectors, which are the wider ones, are normalised block by block, to avoid a copy of them.
    """
    tile = partial(_squared_differences, teacher_similarity=teacher_similarity)
    sums = sum_over(tile, (texts, teacher_texts), (candidates, teacher_candidates), (), block=block)
    return sums / candidates.shape[0]


def _squared_differences(
    rows: Any, candidates: Any, shared: Any, *, teacher_similarity: Similarity
) -> Float[Array, "b k"]:
    (s, t), (c, u) = rows, candidates
    teacher = matmul(unit(t, teacher_similarity), unit(u, teacher_similarity).T)
    return jnp.square(matmul(s, c.T) - lax.stop_gradient(teacher))
