"""Match similarity matrices entry by entry.

The value is summed in blocks. The gradient of a sum of squares is linear in the scores, so it needs no score matrix: it
follows from Gram matrices of the vectors, whose size is the vectors' width squared, not the batch size squared.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.losses.base import Needs, Streamed, sides
from jdistill.losses.blocks import sum_over
from jdistill.losses.maths import Similarity, matmul, unit
from jdistill.losses.scores.operands import Candidates, operands
from jdistill.types import LossInputs

Derivative = Literal["auto", "gram", "blocks"]
Squares = Callable[..., Float[Array, " b"]]


class ScoreMSE(Streamed):
    """Squared difference between the student's and the teacher's similarities; widths may differ."""

    kind: Literal["score_mse"] = "score_mse"
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    candidates: Candidates = "documents"
    """Columns of the matrix: every row's document, or also the hard negatives."""

    def needs(self) -> Needs:
        """The teacher; widths may differ."""
        return Needs(teacher=True)

    def __call__(self, view: LossInputs) -> Float[Array, " b"]:
        """Mean over the columns of each row of the matrix."""
        student, teacher = (operands(side, self.candidates) for side in sides(view))
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
    derivative: Derivative = "auto",
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
      derivative: from Gram matrices, or by recomputing the scores of all blocks; `"auto"` uses the cheaper one.

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
    return mean_squared_gap(
        *student, teacher_texts, teacher_candidates, similarity=similarity, block=block, derivative=derivative
    )


def mean_squared_gap(
    q: Float[Array, "b d"],
    c: Float[Array, "m d"],
    t: Float[Array, "b t"],
    u: Float[Array, "m t"],
    *,
    similarity: Similarity,
    block: int,
    derivative: Derivative = "auto",
) -> Float[Array, " b"]:
    """`mean_j (q_i.c_j - sim(t_i, u_j))^2` of each row, with no gradient for `t` and `u`.

    Args:
      q: row factor of the first matrix, `[b, d]`, float32.
      c: its column factor, `[m, d]`.
      t: row factor of the second matrix, any float.
      u: its column factor.
      similarity: of `t` and `u`.
      block: columns at a time; affects memory and speed only.
      derivative: as for `score_mse`.
    """
    (b, d), (m, width) = q.shape, u.shape
    cheaper = "gram" if gram_cost(b, m, d, width) < blocks_cost(b, m, d, width) else "blocks"
    chosen = cheaper if derivative == "auto" else derivative
    squares: Squares = _squares_by_gram if chosen == "gram" else _squares  # pyright: ignore[reportAssignmentType]
    return squares(similarity, block, q, c, t, u) / m


def gram_cost(b: int, m: int, d: int, t: int) -> int:
    """Multiplications of the backward pass through Gram matrices: four products of `[d, d + t]` with rows of each."""
    return 2 * (b + m) * d * (d + t)


def blocks_cost(b: int, m: int, d: int, t: int) -> int:
    """Multiplications of the backward pass through scores: recomputing them, then their two products with vectors."""
    return b * m * (d + t + 2 * d)


def _squares(similarity: Similarity, block: int, q: Array, c: Array, t: Array, u: Array) -> Float[Array, " b"]:
    """`sum_j (q_i.c_j - sim(t_i, u_j))^2`; the teacher's vectors are normalised per tile, to avoid a copy of them."""
    return sum_over(partial(_squared_difference, similarity=similarity), (q, t), (c, u), (), block=block)


def _squared_difference(rows: Any, candidates: Any, shared: Any, *, similarity: Similarity) -> Float[Array, "b k"]:
    (q, t), (c, u) = rows, candidates
    return jnp.square(matmul(q, c.T) - jax.lax.stop_gradient(matmul(unit(t, similarity), unit(u, similarity).T)))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _squares_by_gram(similarity: Similarity, block: int, q: Array, c: Array, t: Array, u: Array) -> Float[Array, " b"]:
    return _squares(similarity, block, q, c, t, u)


def _forward(similarity: Similarity, block: int, *vectors: Array) -> tuple[Array, tuple[Array, ...]]:
    # The value could be computed from Gram matrices too, z_i^T (W^T W) z_i with z = [q, -t] and W = [c, u]. But for a
    # good student it is a small difference of large squares, of which float32 would keep two or three digits.
    return _squares(similarity, block, *vectors), vectors


def _backward(
    similarity: Similarity, block: int, kept: tuple[Array, ...], cotangent: Float[Array, " b"]
) -> tuple[Array, ...]:
    """With residuals r_ij = q_i.c_j - t_i.u_j: dq_i = 2 g_i sum_j r_ij c_j and dc_j = 2 sum_i g_i r_ij q_i.

    The factors are centred before the Gram products, and the contribution of their means is added separately, as one
    number per row or column. So the Gram products stay small, and precise, even if all similarities are large.
    """
    q, c, t, u = kept
    t, u = unit(t, similarity), unit(u, similarity)
    c_mean, u_mean, q_mean, t_mean = (x.mean(axis=0, keepdims=True) for x in (c, u, q, t))

    by_row = matmul(q, c_mean.T) - matmul(t, u_mean.T)
    offsets = c - c_mean
    sums = matmul(q, matmul(c.T, offsets)) - matmul(t, matmul(u.T, offsets))
    dq = 2 * cotangent[:, None] * (c.shape[0] * by_row * c_mean + sums)

    by_column = matmul(c, q_mean.T) - matmul(u, t_mean.T)
    weighted = 2 * cotangent[:, None] * q
    weighted_mean = weighted.mean(axis=0, keepdims=True)
    offsets = weighted - weighted_mean
    dc = matmul(c, matmul(q.T, offsets)) - matmul(u, matmul(t.T, offsets)) + q.shape[0] * by_column * weighted_mean
    return dq, dc, jnp.zeros_like(kept[2]), jnp.zeros_like(kept[3])


_squares_by_gram.defvjp(_forward, _backward)
