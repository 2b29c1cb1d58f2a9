"""Match the order of similarities: which of two pairs of texts is closer, not how close.

A batch of n rows has about n^4 comparisons of two pairs. A few random ones per row in each step have the same mean.
"""

__all__ = ["Comparisons", "ScoreRank", "draw_comparisons", "score_rank"]

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from typing_extensions import override

from jdistill.losses.base import LossConfig, Needs, student_and_teacher
from jdistill.losses.maths import Similarity, float32, norm, unit
from jdistill.losses.scores.operands import Candidates, operands
from jdistill.types import LossInputs

ROUNDING = 1e-6
"""Teacher scores are tied if they differ by less than this, relative to the norms in their products (rounding
error)."""


class Comparisons(NamedTuple):
    """Comparisons of (row's text, candidate) with (other text, other candidate); `[b, s]`, s for each row."""

    candidates: Int[Array, "*b"]
    """Candidate paired with the row's own text, in `[0, m)`."""
    other_texts: Int[Array, "*b"]
    """Text of the other pair, in `[0, n)`."""
    other_candidates: Int[Array, "*b"]
    """Candidate of the other pair, in `[0, m)`."""


class ScoreRank(LossConfig):
    """Hinge loss on the order of two similarities, for random comparisons."""

    kind: Literal["score_rank"] = "score_rank"
    papers = ("arXiv:2412.19048",)
    margin: NonNegativeFloat = 0.015
    """Required difference of the student's similarities."""
    pairs: PositiveInt = 16
    """Comparisons per row in a step."""
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    candidates: Candidates = "documents"
    """Texts that a text is paired with: every row's document, or also the hard negatives."""

    @override
    def needs(self) -> Needs:
        return Needs(teacher=True)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Mean over the comparisons of each row."""
        student, teacher = (operands(side, self.candidates) for side in student_and_teacher(inputs))
        n, m = student.texts.shape[0], student.candidates.shape[0]
        drawn = draw_comparisons(inputs.key, n, m, self.pairs, among_themselves=inputs.student.queries is None)
        return score_rank(
            *student,
            *teacher,
            Comparisons(*(x[inputs.rows] for x in drawn)),
            margin=self.margin,
            similarity=self.similarity,
        )


def draw_comparisons(key: Array, n: int, m: int, pairs: int, *, among_themselves: bool) -> Comparisons:
    """Random comparisons for every row of the batch, uniform over pairs of texts; the same on every device.

    Args:
      key: PRNG key of the step and term.
      n: rows of the batch.
      m: candidates.
      pairs: comparisons per row.
      among_themselves: the texts are the first candidates, and no text is paired with itself.
    """
    of_own, of_text, of_other = jax.random.split(key, 3)
    others = jax.random.randint(of_text, (n, pairs), 0, n)
    skipped = 1 if among_themselves and m > 1 else 0
    own, other = (jax.random.randint(k, (n, pairs), skipped, m) for k in (of_own, of_other))
    if not skipped:
        return Comparisons(own, others, other)
    # The drawn numbers are offsets from the text itself, at least 1, so that it is never its own candidate.
    return Comparisons((jnp.arange(n)[:, None] + own) % m, others, (others + other) % m)


def score_rank(
    rows: Float[Array, "b d"],
    texts: Float[Array, "n d"],
    candidates: Float[Array, "m d"],
    teacher_rows: Float[Array, "b t"],
    teacher_texts: Float[Array, "n t"],
    teacher_candidates: Float[Array, "m t"],
    comparisons: Comparisons,
    *,
    margin: float = 0.015,
    similarity: Similarity = "cosine",
) -> Float[Array, " b"]:
    """Order pairs of texts by similarity as the teacher does.

    Independent of the size of similarities, so a narrow range of cosines is neither penalised nor rewarded. Noisy, and
    meant to be combined with score_mse.
        loss_i = mean over s of relu(margin - sign(T_ij - T_kl) (S_ij - S_kl)),   (j, k, l) = comparison s of row i
    A tie of the teacher counts as 0.

    Args:
      rows: the student's vectors of this shard's rows, `[b, d]`, any float; maths runs in float32.
      texts: the same of the whole batch, `[n, d]`.
      candidates: the student's vectors of the candidates, of the whole batch, `[m, d]`.
      teacher_rows: the teacher's vectors of `rows`; the teacher gets no gradient.
      teacher_texts: the teacher's vectors of `texts`.
      teacher_candidates: the teacher's vectors of `candidates`.
      comparisons: indices, `[b, s]` each.
      margin: required difference of the student's similarities, >= 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.

    Returns:
      Mean over the row's comparisons, `[b]`; >= 0. Memory is that of `b` vectors, however many comparisons there are.

    Source:
      Zhang et al. 2024, arXiv:2412.19048, the relative similarity loss L_resim, over a sample.
      Parity: pair_inbatch_triplet_loss of RAG-Retrieval's Stella distillation, in expectation over comparisons and
      without ties of the teacher, whose order is arbitrary there.

    Example:
      >>> x, t = jnp.eye(2), jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> opposite = Comparisons(*(jnp.array([[k]]) for k in (1, 0, 0)))  # text 0 with 1, against 0 with itself
      >>> score_rank(x[:1], x, x, t[:1], t, t, opposite, margin=1.5).tolist()
      [0.5]
    """
    student = float32(rows), float32(texts), float32(candidates)  # gradients are summed in float32
    teacher = teacher_rows, teacher_texts, teacher_candidates

    # One comparison of all rows at a time, recomputed in the backward pass, so that only one is in memory.
    @jax.checkpoint
    def add(total: Float[Array, " b"], comparison: Comparisons) -> tuple[Float[Array, " b"], None]:
        theirs, rounding = lax.stop_gradient(_difference(*teacher, comparison, similarity))
        ours, _ = _difference(*student, comparison, similarity)
        # sign is 1 if the teacher scores the row's pair higher, -1 if lower; ties are masked below.
        hinge = jax.nn.relu(margin - jnp.sign(theirs) * ours)
        return total + jnp.where(jnp.abs(theirs) > rounding, hinge, 0.0), None

    # Transposed, so that the scan goes over comparisons. Its carry is made from the rows, so that it varies over the
    # devices, as under shard_map it must.
    total, _ = lax.scan(add, jnp.zeros_like(student[0][:, 0]), Comparisons(*(x.T for x in comparisons)))
    return total / comparisons.candidates.shape[1]


def _difference(
    rows: Float[Array, "b d"],
    texts: Float[Array, "n d"],
    candidates: Float[Array, "m d"],
    comparison: Comparisons,
    similarity: Similarity,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Similarity of each row's pair minus that of the other pair, and how large a difference may be rounding alone."""
    a, b = unit(rows, similarity), unit(candidates[comparison.candidates], similarity)
    c = unit(texts[comparison.other_texts], similarity)
    d = unit(candidates[comparison.other_candidates], similarity)
    difference = jnp.sum(a * b, axis=-1) - jnp.sum(c * d, axis=-1)
    return difference, ROUNDING * (norm(a) * norm(b) + norm(c) * norm(d))
