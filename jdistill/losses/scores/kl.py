"""Match distributions over candidates: which of them a text belongs to, and how sure the teacher is of it."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat, model_validator

from jdistill.config import UserError
from jdistill.losses.base import Needs, Streamed, sides
from jdistill.losses.blocks import HERE, Tile, logsumexp_over, sum_over
from jdistill.losses.maths import Similarity, float32, matmul, unit
from jdistill.losses.scores.operands import (
    Candidates,
    Targets,
    given_scores,
    own_scores,
    paired,
    sample_of_scores,
    share_of_operands,
)
from jdistill.losses.softmax import DIVERGENCES, Divergence, Terms, logits_of, lost_targets
from jdistill.types import Columns, Sweep, View


class ScoreKL(Streamed):
    """Divergence of the student's softmax over candidates from the teacher's."""

    kind: Literal["score_kl"] = "score_kl"
    targets: Targets = "vectors"
    """What the teacher says: its vectors on disk, scored over all candidates of the batch, or the data's given scores
    of the row's own document and hard negatives, such as a cross-encoder's."""
    candidates: Candidates = "documents"
    """Of the batch, with `targets: vectors`: every row's document, or the hard negatives too."""
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    temperature: PositiveFloat = 0.05
    """Divides the student's scores; usually 0.01 to 0.1 for cosine and 1 for dot products."""
    teacher_temperature: PositiveFloat | None = None
    """Divides the teacher's scores; the student's temperature if left out. Given scores want about a tenth of the
    spread they have within a row."""
    divergence: Divergence = "kl"
    """Kullback-Leibler, its cross-entropy without the teacher's own entropy (the same gradient), or the summed squared
    difference of the probabilities."""
    excluded_from: Literal["teacher", "both"] = "teacher"
    """Where a candidate with a given score of -inf is left out: of the teacher's distribution, so that the student
    learns to give it nothing, or of both, as if it were not there."""

    @model_validator(mode="after")
    def _has_one_set_of_candidates(self) -> "ScoreKL":
        if self.targets == "scores" and self.candidates == "all":
            raise ValueError(
                "given scores are of a row's own documents only, so candidates: all does not go with targets: scores. "
                "Leave candidates out, or set targets: vectors."
            )
        return self

    def needs(self) -> Needs:
        """The teacher's vectors, in any width, and the candidates of the batch, unless scores are given."""
        return Needs(teacher=self.targets == "vectors", batch=self.targets == "vectors")

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Divergence of each row.

        Raises:
          UserError: if scores are to be given and the rows have none, too few, no queries or no hard negatives.
        """
        if self.targets == "scores":
            ours = own_scores(view.student, self.kind, similarity=self.similarity)
            theirs = given_scores(view, self.kind)
            if theirs.shape[1] == 1:
                raise UserError(
                    "score_kl with targets: scores shares out probability between a row's documents, but these rows "
                    "have one each. Name columns of hard negatives under data.<source>.columns, or set targets: "
                    "vectors to compare a row with the batch."
                )
            return listwise_kl(
                ours,
                theirs,
                temperature=self.temperature,
                teacher_temperature=self.target_temperature,
                divergence=self.divergence,
                excluded_from=self.excluded_from,
            )
        student, teacher = (share_of_operands(side, self.candidates) for side in sides(view))
        return score_kl(
            *student,
            *teacher,
            jnp.arange(len(view.rows)),
            temperature=self.temperature,
            teacher_temperature=self.target_temperature,
            similarity=self.similarity,
            divergence=self.divergence,
            block=self.block,
            sweep=view.sweep,
        )

    @property
    def target_temperature(self) -> float:
        """What divides the teacher's scores."""
        return self.temperature if self.teacher_temperature is None else self.teacher_temperature

    def examine(self, teacher: Columns | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Whether the teacher's scores are no numbers, or vanish in the softmax."""
        what, logits = "the given scores", scores
        if self.targets == "vectors":
            what, logits = "the scores of its vectors", sample_of_scores(teacher, self.candidates, self.similarity)
        if logits is None:
            return []
        option = "temperature" if self.teacher_temperature is None else "teacher_temperature"
        return lost_targets(np.asarray(logits), self.target_temperature, what=what, option=option)


def score_kl(
    texts: Float[Array, "b d"],
    candidates: Float[Array, "m d"],
    teacher_texts: Float[Array, "b t"],
    teacher_candidates: Float[Array, "m t"],
    positives: Int[Array, " b"],
    *,
    temperature: float,
    teacher_temperature: float,
    similarity: Similarity = "cosine",
    divergence: Divergence = "kl",
    block: int = 512,
    sweep: Sweep = HERE,
) -> Float[Array, " b"]:
    """Share out a text's probability over the batch's candidates as the teacher does.

    Against one-hot targets as in InfoNCE it has no false negatives: a candidate is as wrong as the teacher says.
        loss_i = T^2 KL(p_i || q_i),   p_i = softmax_j(t_i.u_j / T_t),   q_i = softmax_j(s_i.c_j / T)
    The factor T^2 keeps the size of the gradient nearly independent of the student's temperature.

    Args:
      texts: the student's vectors of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: the student's vectors of what they are scored against, of the whole batch, `[m, d]`; or this device's
        share of them.
      teacher_texts: the teacher's vectors of `texts`; they get no gradient.
      teacher_candidates: the teacher's vectors of `candidates`.
      positives: column of each row's own document, `[b]`, values in `[0, m)`. Scores are counted from it, so that
        float32 keeps digits; the result is that of any other column.
      temperature: T, divides the student's scores, > 0.
      teacher_temperature: T_t, divides the teacher's scores, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      divergence: `"kl"`; `"cross_entropy"`, -sum_j p_ij log q_ij; or `"mse"`, sum_j (q_ij - p_ij)^2.
      block: candidates scored at a time; decides memory only.
      sweep: brings the shares of all devices together.

    Returns:
      Divergence of each row, times T^2, `[b]`; >= 0.

    Source:
      Hinton et al. 2015, arXiv:1503.02531, section 2, over the batch in place of classes.
      Parity: InfoNCEDistillLoss of NVIDIA NeMo Automodel and, for `"mse"`, its score distillation, both without T^2;
      sentence-transformers DistillKLDivLoss where candidates are given.

    Example:
      >>> x, t = jnp.eye(2), jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> round(float(score_kl(x, x, t, t, jnp.arange(2), temperature=1.0, teacher_temperature=1.0).mean()), 4)
      0.041
    """
    ours = partial(_logits, similarity=similarity, temperature=temperature)
    theirs = partial(_logits, similarity=similarity, temperature=teacher_temperature)
    texts, candidates = float32(texts), float32(candidates)
    columns = candidates, teacher_candidates
    # Counted from the own document's, the logits and the normaliser of a row that is sure of it are nearly 0, and keep
    # digits that 20.0001 would lose. A softmax does not see it.
    rows = (
        (texts, paired(texts, candidates[positives], similarity) / temperature),
        (teacher_texts, paired(teacher_texts, teacher_candidates[positives], similarity) / teacher_temperature),
    )
    normalisers = tuple(
        lax.stop_gradient(logsumexp_over(logits, row, column, (), block=block, sweep=sweep))
        for logits, row, column in zip((ours, theirs), rows, columns, strict=True)
    )

    def over(terms: Terms, *more: Array) -> Float[Array, " b"]:
        tile = partial(_terms, terms=terms, ours=ours, theirs=theirs)
        return sum_over(tile, (*rows, *normalisers, *more), columns, (), block=block, sweep=sweep)

    return DIVERGENCES[divergence](over) * temperature**2


def _logits(
    rows: tuple[Array, Array], candidates: Array, shared: Any, *, similarity: Similarity, temperature: float
) -> Float[Array, "b k"]:
    """Scores over the temperature, counted from each row's own."""
    texts, own = rows
    scores = matmul(unit(texts, similarity) / temperature, unit(candidates, similarity).T)
    return scores - lax.stop_gradient(own)[:, None]


def _terms(rows: Any, candidates: Any, shared: Any, *, terms: Terms, ours: Tile, theirs: Tile) -> Float[Array, "b k"]:
    student, teacher, *per_row = rows
    s = ours(student, candidates[0], shared)
    t = lax.stop_gradient(theirs(teacher, candidates[1], shared))
    of_student, of_teacher, *more = (x[:, None] for x in per_row)
    return terms(s, of_student, t, of_teacher, *more)


def listwise_kl(
    student: Float[Array, "b c"],
    teacher: Float[Array, "b c"],
    *,
    temperature: float,
    teacher_temperature: float,
    divergence: Divergence = "kl",
    excluded_from: Literal["teacher", "both"] = "teacher",
) -> Float[Array, " b"]:
    """Share out a query's probability over its own documents as the teacher's scores do.

    The usual way to learn from a cross-encoder, whose scores say nothing about other rows' documents.
        loss_i = T^2 KL(softmax_j(teacher_ij / T_t) || softmax_j(student_ij / T))

    Args:
      student: the student's score of each document, `[b, c]`.
      teacher: the teacher's, on any scale; -inf excludes a document. A row whose documents are all excluded gives 0.
      temperature: T, divides the student's scores, > 0.
      teacher_temperature: T_t, divides the teacher's scores, > 0.
      divergence: as of `score_kl`.
      excluded_from: `"teacher"` leaves an excluded document out of the teacher's distribution only, `"both"` out of the
        student's too.

    Returns:
      Divergence of each row, times T^2, `[b]`; >= 0.

    Source:
      Lin et al. 2020, arXiv:2010.11386, section 3, with T^2 of Hinton et al. 2015, arXiv:1503.02531, section 2.
      Parity: sentence-transformers DistillKLDivLoss, which excludes from the teacher's distribution only; for
      `"cross_entropy"` FlagEmbedding's `kl_div`.

    Example:
      >>> student, teacher = jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])
      >>> round(float(listwise_kl(student, teacher, temperature=1.0, teacher_temperature=1.0)[0]), 4)
      0.1109
    """
    s, t = float32(student), lax.stop_gradient(float32(teacher))
    given = t > -jnp.inf
    if excluded_from == "both":
        s = jnp.where(given, s, -jnp.inf)
    s, t = logits_of(s, temperature), logits_of(t, teacher_temperature)
    normalisers = (jax.nn.logsumexp(x, axis=1, keepdims=True) for x in (s, t))
    of_student, of_teacher = (jnp.where(jnp.isfinite(x), x, 0.0) for x in normalisers)

    def over(terms: Terms, *more: Array) -> Float[Array, " b"]:
        return terms(s, of_student, t, of_teacher, *(x[:, None] for x in more)).sum(axis=1)

    return jnp.where(given.any(axis=1), DIVERGENCES[divergence](over), 0.0) * temperature**2
