"""Match softmax distributions over candidates."""

__all__ = ["ScoreKL", "score_kl"]

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat, model_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import Direction, Needs, Streamed, crosses, local_candidate_ids, student_and_teacher
from jdistill.losses.blocks import SINGLE_DEVICE, logsumexp_over, sum_over
from jdistill.losses.maths import Similarity, float32, matmul, pair_scores, unit
from jdistill.losses.scores.listwise import listwise_kl
from jdistill.losses.scores.operands import (
    Candidates,
    Targets,
    local_operands,
    own_scores,
    sample_of_scores,
    target_scores,
)
from jdistill.losses.softmax import DIVERGENCES, Divergence, Terms, underflow_warnings
from jdistill.papers import Papers
from jdistill.types import CandidateExchange, LossInputs, PairEmbeddings


class ScoreKL(Streamed):
    """Divergence of the student's softmax over candidates from the teacher's."""

    kind: Literal["score_kl"] = "score_kl"
    papers = ("arXiv:1503.02531",)
    targets: Targets = "vectors"
    """Source of the targets: the teacher's vectors on disk, scored against the candidates (vectors), or scores in the
    data for the row's own document and hard negatives, such as a cross-encoder's (scores)."""
    candidates: Candidates | Literal["documents_and_own", "own"] = "documents"
    """With `targets: vectors`: every row's document (documents), also the hard negatives of every row (all) or of the
    row itself (documents_and_own), or only the row's own document and hard negatives (own)."""
    direction: Direction = "q2d"
    """With `targets: vectors`: from the row's text to its candidates, q query and d document."""
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    temperature: PositiveFloat = 0.05
    """Divides the student's scores; usually 0.01 to 0.1 for cosine and 1 for dot products."""
    teacher_temperature: PositiveFloat | None = None
    """Divides the teacher's scores. Default: the student's temperature for vectors, 1 for given scores. For given
    scores, about a tenth of their spread within a row is a good value."""
    divergence: Divergence = "kl"
    """KL divergence, cross-entropy (KL plus the teacher's entropy; same gradient), or the summed squared difference of
    the probabilities."""
    excluded_from: Literal["teacher", "both"] = "teacher"
    """Whether a candidate with a given score of -inf is excluded from the teacher's distribution only, so that the
    student learns to give it probability 0, or from both distributions."""

    @model_validator(mode="after")
    def _options_go_together(self) -> "ScoreKL":
        if self.targets == "scores" and (self.candidates not in ("documents", "own") or self.direction != "q2d"):
            raise ValueError(
                f"given scores are for a query and the row's own documents, so candidates: {self.candidates} and "
                f"direction: {self.direction} do not go with targets: scores. Leave both out, or set targets: vectors."
            )
        if self.direction != "q2d" and self.candidates in ("documents_and_own", "own"):
            raise ValueError(
                f"candidates: {self.candidates} includes documents of a query, so direction: {self.direction} does not "
                "go with it. Leave direction out, or set candidates: documents."
            )
        if self.direction in ("d2q", "q2q") and self.candidates == "all":
            raise ValueError(
                f"direction: {self.direction} scores queries, which have no hard negatives, so candidates: all has no "
                "effect. Leave candidates out."
            )
        return self

    @property
    def _own(self) -> bool:
        """Whether a row is scored against its own documents only."""
        return self.targets == "scores" or self.candidates == "own"

    @override
    def cited(self) -> Papers:
        """Also the paper on given scores as targets, if these are used."""
        return (*self.papers, *(["arXiv:2010.11386"] if self.targets == "scores" else []))

    @override
    def needs(self) -> Needs:
        return Needs(teacher=self.targets == "vectors", batch=not self._own)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Divergence of each row.

        Raises:
          UserError: if given scores are missing or too few, or the candidates need queries or hard negatives that the
            rows lack.
        """
        return self._among_own(inputs) if self._own else self._among_batch(inputs)

    def _among_own(self, inputs: LossInputs) -> Float[Array, " b"]:
        student = own_scores(inputs.student, self.kind, similarity=self.similarity)
        teacher = target_scores(inputs, self.targets, self.kind, similarity=self.similarity)
        if teacher.shape[1] == 1:
            raise UserError(
                "score_kl with targets: scores or candidates: own needs several documents per row, but these rows have "
                "one each. Name columns of hard negatives under data.<source>.columns, or set targets: vectors and "
                "candidates: documents to compare a row with the batch."
            )
        return listwise_kl(
            student,
            teacher,
            temperature=self.temperature,
            teacher_temperature=self.target_temperature,
            divergence=self.divergence,
            excluded_from=self.excluded_from,
        )

    def _among_batch(self, inputs: LossInputs) -> Float[Array, " b"]:
        student, teacher = student_and_teacher(inputs)
        pool: Candidates = "all" if self.candidates == "all" else "documents"
        texts, candidates = local_operands(student, pool, self.direction, self.kind)
        teacher_texts, teacher_candidates = local_operands(teacher, pool, self.direction, self.kind)
        with_own_negatives = self.candidates == "documents_and_own" and student.negatives.shape[1] > 0
        return score_kl(
            texts,
            candidates,
            teacher_texts,
            teacher_candidates,
            # Within one kind of text, a row's own candidate is the text itself.
            jnp.arange(len(inputs.rows)) if crosses(self.direction) else None,
            # Queries, or documents without hard negatives, are b candidates, in the order of the first b local ones.
            columns=(inputs.rows, local_candidate_ids(inputs)[: len(candidates)]),
            further=(student.negatives, teacher.negatives) if with_own_negatives else None,
            temperature=self.temperature,
            teacher_temperature=self.target_temperature,
            similarity=self.similarity,
            divergence=self.divergence,
            block=self.block,
            sweep=inputs.sweep,
        )

    @property
    def target_temperature(self) -> float:
        """`teacher_temperature`, or its default, which depends on the targets."""
        if self.teacher_temperature is not None:
            return self.teacher_temperature
        return 1.0 if self.targets == "scores" else self.temperature

    @override
    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Report NaN in the teacher's scores, and scores that underflow in the softmax."""
        what, logits = "the given scores", scores
        if self.targets == "vectors":
            what = "the scores of its vectors"
            logits = sample_of_scores(teacher, self.candidates, self.similarity, self.direction)
        if logits is None:
            return []
        shared = self.teacher_temperature is None and self.targets == "vectors"
        option = "temperature" if shared else "teacher_temperature"
        return underflow_warnings(np.asarray(logits), self.target_temperature, what=what, option=option)


def score_kl(
    texts: Float[Array, "b d"],
    candidates: Float[Array, "m d"],
    teacher_texts: Float[Array, "b t"],
    teacher_candidates: Float[Array, "m t"],
    positives: Int[Array, " b"] | None,
    *,
    temperature: float,
    teacher_temperature: float,
    columns: tuple[Int[Array, " b"], Int[Array, " m"]] | None = None,
    further: tuple[Float[Array, "b k d"], Float[Array, "b k t"]] | None = None,
    similarity: Similarity = "cosine",
    divergence: Divergence = "kl",
    block: int = 512,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, " b"]:
    """Match the student's softmax over the batch's candidates to the teacher's.

    Unlike InfoNCE with its one-hot targets, it has no false negatives: the teacher grades every candidate.
        loss_i = T^2 KL(p_i || q_i),   p_i = softmax_j(t_i.u_j / T_t),   q_i = softmax_j(s_i.c_j / T)
    The factor T^2 keeps the size of the gradient nearly independent of the student's temperature.

    Args:
      texts: the student's vectors of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: the student's vectors of the candidates, of the whole batch, `[m, d]`; or this device's share.
      teacher_texts: the teacher's vectors of `texts`; they get no gradient.
      teacher_candidates: the teacher's vectors of `candidates`.
      positives: column of each row's own document, `[b]`, values in `[0, m)`. Its score is subtracted from the others
        for precision, which does not change the result. None if the candidates are the texts themselves, in order.
      temperature: T, divides the student's scores, > 0.
      teacher_temperature: T_t, divides the teacher's scores, > 0.
      columns: columns in the whole batch of each row's own document, `[b]`, and of each candidate, `[m]`, if the
        candidates are a device's share; by default counted from 0.
      further: the student's and the teacher's vectors of candidates of each row alone, such as its hard negatives,
        `[b, k, d]` and `[b, k, t]`, k >= 1.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      divergence: `"kl"`; `"cross_entropy"`, -sum_j p_ij log q_ij; or `"mse"`, sum_j (q_ij - p_ij)^2.
      block: candidates scored at a time; affects memory and speed only.
      sweep: pairs the rows with the candidates of all devices.

    Returns:
      Divergence of each row, times T^2, `[b]`; >= 0.

    Source:
      Hinton et al. 2015, arXiv:1503.02531, section 2, over the batch instead of classes.
      Parity: InfoNCEDistillLoss of NVIDIA NeMo Automodel, whose hard negatives are `further`, and with `"mse"` between
      the texts of one side its ScoreDistillLoss, both without T^2.

    Example:
      >>> x, t = jnp.eye(2), jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> round(float(score_kl(x, x, t, t, jnp.arange(2), temperature=1.0, teacher_temperature=1.0).mean()), 4)
      0.041
    """
    texts, candidates = float32(texts), float32(candidates)
    if columns is None:
        every = jnp.arange(len(candidates))
        columns = (every if positives is None else positives), every
    student, teacher = _Logits(similarity, temperature), _Logits(similarity, teacher_temperature)
    student_rows = _Rows(texts, _own_scores(texts, candidates, positives, similarity), columns[0])
    teacher_rows = _Rows(
        teacher_texts, _own_scores(teacher_texts, teacher_candidates, positives, similarity), columns[0]
    )
    pool = _Pool(candidates, columns[1]), _Pool(teacher_candidates, columns[1])

    # The own document is masked among the batch's candidates and put first among those of the row alone. Its logit is
    # 0, since all are relative to it, and the normaliser log(1 + others), which stays precise for probabilities near 1.
    student_vectors, teacher_vectors = (None, None) if further is None else further
    s = student.of_row(student_rows, student_vectors)
    t = lax.stop_gradient(teacher.of_row(teacher_rows, teacher_vectors))

    def normaliser(logits: _Logits, rows: _Rows, candidates: _Pool, of_row: Float[Array, "b c"]) -> Float[Array, " b"]:
        tile = partial(_batch_logits, logits)
        of_batch = logsumexp_over(tile, rows, candidates, (), block=block, sweep=sweep)
        return jnp.logaddexp(of_batch, jax.nn.logsumexp(of_row, axis=1))

    student_normaliser = normaliser(student, student_rows, pool[0], s)
    teacher_normaliser = lax.stop_gradient(normaliser(teacher, teacher_rows, pool[1], t))
    # The terms of kl and cross_entropy include the normaliser's share in their derivative. If its gradient, which is 0,
    # were not stopped here, the backward pass would go over all candidates a second time.
    if divergence != "mse":
        student_normaliser = lax.stop_gradient(student_normaliser)

    terms = DIVERGENCES[divergence]
    rows = student_rows, teacher_rows, student_normaliser, teacher_normaliser
    among_batch = sum_over(partial(_batch_terms, terms, student, teacher), rows, pool, (), block=block, sweep=sweep)
    among_own = terms(s, student_normaliser[:, None], t, teacher_normaliser[:, None]).sum(axis=1)
    return (among_batch + among_own) * temperature**2


class _Rows(NamedTuple):
    """The student's, or the teacher's, side of the rows."""

    texts: Float[Array, "b d"]
    own_scores: Float[Array, " b"]
    """Similarity of each text with the row's own document."""
    columns: Int[Array, " b"]
    """Column of the own document."""


class _Pool(NamedTuple):
    """Candidates that all rows share."""

    vectors: Float[Array, "m d"]
    columns: Int[Array, " m"]


class _Logits(NamedTuple):
    """Logits of one model: scores over a temperature, minus that of the row's own document."""

    similarity: Similarity
    temperature: float

    def of_batch(self, rows: _Rows, pool: _Pool) -> Float[Array, "b k"]:
        """Of the candidates that all rows share; -inf at a row's own document."""
        texts = unit(rows.texts, self.similarity) / self.temperature
        logits = matmul(texts, unit(pool.vectors, self.similarity).T) - self._reference(rows)
        return jnp.where(rows.columns[:, None] == pool.columns[None], -jnp.inf, logits)

    def of_row(self, rows: _Rows, further: Float[Array, "b k d"] | None) -> Float[Array, "b c"]:
        """Of the own document, which is 0 with the derivative of its score, and of the row's further candidates."""
        # The reference is a constant, so the difference is 0, but has the derivative of the own score.
        own = rows.own_scores[:, None] / self.temperature - self._reference(rows)
        if further is None:
            return own
        texts = unit(rows.texts, self.similarity) / self.temperature
        vectors = unit(further, self.similarity)
        logits = jnp.einsum("bd,bkd->bk", texts, vectors, precision=lax.Precision.HIGHEST) - self._reference(rows)
        return jnp.concatenate([own, logits], axis=1)

    def _reference(self, rows: _Rows) -> Float[Array, "b 1"]:
        return lax.stop_gradient(rows.own_scores)[:, None] / self.temperature


def _batch_logits(logits: _Logits, rows: _Rows, pool: _Pool, shared: Any) -> Float[Array, "b k"]:
    """A tile for the normaliser: the logits of one model."""
    return logits.of_batch(rows, pool)


def _batch_terms(
    terms: Terms, student: _Logits, teacher: _Logits, rows: Any, pools: tuple[_Pool, _Pool], shared: Any
) -> Float[Array, "b k"]:
    """A tile for the divergence: its terms, from the logits of both models; only the student's get a gradient."""
    student_rows, teacher_rows, student_normaliser, teacher_normaliser = rows
    s = student.of_batch(student_rows, pools[0])
    t = lax.stop_gradient(teacher.of_batch(teacher_rows, pools[1]))
    return terms(s, student_normaliser[:, None], t, teacher_normaliser[:, None])


def _own_scores(
    texts: Float[Array, "b d"],
    candidates: Float[Array, "m d"],
    positives: Int[Array, " b"] | None,
    similarity: Similarity,
) -> Float[Array, " b"]:
    """Similarity of each text with its own document; cosine of a text with itself is exactly 1, or 0 for zero."""
    if positives is not None:
        return pair_scores(texts, candidates[positives], similarity)
    squares = pair_scores(texts, texts, similarity)
    if similarity == "dot":
        return squares
    # Exactly 1, but with the derivative of the computed cosine, which cancels with that of equal texts in the row's
    # sum.
    value = lax.stop_gradient(squares)
    return jnp.sign(value) + (squares - value)
