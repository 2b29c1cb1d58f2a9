"""Match softmax distributions over candidates."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat, model_validator

from jdistill.config import UserError
from jdistill.losses.base import Needs, Streamed, local_candidate_ids, sides
from jdistill.losses.blocks import SINGLE_DEVICE, logsumexp_over, sum_over
from jdistill.losses.contrast.directions import Direction, crosses
from jdistill.losses.maths import Similarity, float32, matmul, unit
from jdistill.losses.scores.listwise import listwise_kl
from jdistill.losses.scores.operands import (
    Candidates,
    Targets,
    own_scores,
    paired,
    sample_of_scores,
    share_of_operands,
    target_scores,
)
from jdistill.losses.softmax import DIVERGENCES, Divergence, Terms, underflow_warnings
from jdistill.types import CandidateExchange, LossInputs, PairEmbeddings


class ScoreKL(Streamed):
    """Divergence of the student's softmax over candidates from the teacher's."""

    kind: Literal["score_kl"] = "score_kl"
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

    def needs(self) -> Needs:
        """The teacher's vectors, of any width, unless scores are given; the batch, unless candidates are the row's
        own.
        """
        return Needs(teacher=self.targets == "vectors", batch=not self._own)

    def __call__(self, view: LossInputs) -> Float[Array, " b"]:
        """Divergence of each row.

        Raises:
          UserError: if given scores are missing or too few, or the candidates need queries or hard negatives that the
            rows lack.
        """
        how = {
            "temperature": self.temperature,
            "teacher_temperature": self.target_temperature,
            "divergence": self.divergence,
        }
        if self._own:
            ours = own_scores(view.student, self.kind, similarity=self.similarity)
            theirs = target_scores(view, self.targets, self.kind, similarity=self.similarity)
            if theirs.shape[1] == 1:
                raise UserError(
                    "score_kl with targets: scores or candidates: own needs several documents per row, but these rows "
                    "have one each. Name columns of hard negatives under "
                    "data.<source>.columns, or set targets: vectors and candidates: documents to compare a row with "
                    "the batch."
                )
            return listwise_kl(ours, theirs, excluded_from=self.excluded_from, **how)
        student, teacher = sides(view)
        both = self.candidates == "documents_and_own" and student.negatives.shape[1] > 0
        batch: Candidates = "all" if self.candidates == "all" else "documents"
        texts, candidates = share_of_operands(student, batch, self.direction, self.kind)
        teacher_texts, teacher_candidates = share_of_operands(teacher, batch, self.direction, self.kind)
        return score_kl(
            texts,
            candidates,
            teacher_texts,
            teacher_candidates,
            jnp.arange(len(view.rows)) if crosses(self.direction) else None,
            numbers=(view.rows, local_candidate_ids(view)[: len(candidates)]),
            own=(student.negatives, teacher.negatives) if both else None,
            similarity=self.similarity,
            block=self.block,
            sweep=view.sweep,
            **how,
        )

    @property
    def target_temperature(self) -> float:
        """The temperature of the teacher's scores."""
        if self.teacher_temperature is not None:
            return self.teacher_temperature
        return 1.0 if self.targets == "scores" else self.temperature

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


class _Logits(NamedTuple):
    """One side's logits: scores minus that of the row's own document, over the temperature.

    Rows are `(texts [b, d], score of the own document [b], its column [b])`.
    """

    similarity: Similarity
    temperature: float

    def of_batch(self, rows: Any, candidates: Any) -> Float[Array, "b k"]:
        """Logits of candidates that all rows share, `(vectors [k, d], columns [k])`; -inf at a row's own document."""
        (texts, own, number), (vectors, numbers) = rows, candidates
        scores = matmul(unit(texts, self.similarity) / self.temperature, unit(vectors, self.similarity).T)
        return jnp.where(number[:, None] == numbers[None], -jnp.inf, scores - self._first(own))

    def of_each(self, rows: Any, candidates: Float[Array, "b k d"]) -> Float[Array, "b k"]:
        """Logits of candidates specific to one row."""
        texts, own, _ = rows
        texts = unit(texts, self.similarity) / self.temperature
        candidates = unit(candidates, self.similarity)
        return jnp.einsum("bd,bkd->bk", texts, candidates, precision=lax.Precision.HIGHEST) - self._first(own)

    def of_own(self, rows: Any) -> Float[Array, "b 1"]:
        """Logit of the own document: 0, with the derivative of its score."""
        own = rows[1]
        return own[:, None] / self.temperature - self._first(own)

    def _first(self, own: Float[Array, " b"]) -> Float[Array, "b 1"]:
        return lax.stop_gradient(own)[:, None] / self.temperature


def _tile(logits: _Logits, rows: Any, candidates: Any, shared: Any) -> Float[Array, "b k"]:
    return logits.of_batch(rows, candidates)


def _terms(
    rows: Any, candidates: Any, shared: Any, *, terms: Terms, ours: _Logits, theirs: _Logits
) -> Float[Array, "b k"]:
    student, teacher, *per_row = rows
    s = ours.of_batch(student, candidates[0])
    t = lax.stop_gradient(theirs.of_batch(teacher, candidates[1]))
    of_student, of_teacher, *more = (x[:, None] for x in per_row)
    return terms(s, of_student, t, of_teacher, *more)


def score_kl(
    texts: Float[Array, "b d"],
    candidates: Float[Array, "m d"],
    teacher_texts: Float[Array, "b t"],
    teacher_candidates: Float[Array, "m t"],
    positives: Int[Array, " b"] | None,
    *,
    temperature: float,
    teacher_temperature: float,
    numbers: tuple[Int[Array, " b"], Int[Array, " m"]] | None = None,
    own: tuple[Float[Array, "b k d"], Float[Array, "b k t"]] | None = None,
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
      numbers: columns in the whole batch of each row's own document, `[b]`, and of each candidate, `[m]`, if the
        candidates are a device's share; by default counted from 0.
      own: the student's and the teacher's vectors of further candidates specific to each row, such as its hard
        negatives, `[b, k, d]` and `[b, k, t]`, k >= 1.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      divergence: `"kl"`; `"cross_entropy"`, -sum_j p_ij log q_ij; or `"mse"`, sum_j (q_ij - p_ij)^2.
      block: candidates scored at a time; affects memory and speed only.
      sweep: pairs the rows with the candidates of all devices.

    Returns:
      Divergence of each row, times T^2, `[b]`; >= 0.

    Source:
      Hinton et al. 2015, arXiv:1503.02531, section 2, over the batch instead of classes.
      Parity: InfoNCEDistillLoss of NVIDIA NeMo Automodel, whose hard negatives are `own`, and with `"mse"` between the
      texts of one side its ScoreDistillLoss, both without T^2.

    Example:
      >>> x, t = jnp.eye(2), jnp.array([[1.0, 0.0], [0.6, 0.8]])
      >>> round(float(score_kl(x, x, t, t, jnp.arange(2), temperature=1.0, teacher_temperature=1.0).mean()), 4)
      0.041
    """
    texts, candidates = float32(texts), float32(candidates)
    numbers = _numbers(positives, len(candidates)) if numbers is None else numbers
    ours = _Logits(similarity, temperature)
    theirs = _Logits(similarity, teacher_temperature)
    own_scores = (
        _own_score(texts, candidates, positives, similarity),
        _own_score(teacher_texts, teacher_candidates, positives, similarity),
    )
    rows = (texts, own_scores[0], numbers[0]), (teacher_texts, own_scores[1], numbers[0])
    columns = (candidates, numbers[1]), (teacher_candidates, numbers[1])
    # The own document is treated as the first of the row-specific candidates and masked among the batch's. Its logit,
    # relative to itself, is 0, and the normaliser log(1 + others), which stays precise for probabilities near 1.
    further = [logits.of_own(row) for logits, row in zip((ours, theirs), rows, strict=True)]
    if own is not None:
        pairs = zip(further, (ours, theirs), rows, own, strict=True)
        further = [jnp.concatenate([first, logits.of_each(row, x)], axis=1) for first, logits, row, x in pairs]
    normalisers = [
        lax.stop_gradient(
            jnp.logaddexp(
                logsumexp_over(partial(_tile, logits), row, column, (), block=block, sweep=sweep),
                jax.nn.logsumexp(rest, axis=1),
            )
        )
        for logits, row, column, rest in zip((ours, theirs), rows, columns, further, strict=True)
    ]

    def over(terms: Terms, *more: Array) -> Float[Array, " b"]:
        tile = partial(_terms, terms=terms, ours=ours, theirs=theirs)
        s, t = further
        of_student, of_teacher, *others = (x[:, None] for x in (*normalisers, *more))
        return sum_over(tile, (*rows, *normalisers, *more), columns, (), block=block, sweep=sweep) + terms(
            s, of_student, lax.stop_gradient(t), of_teacher, *others
        ).sum(axis=1)

    return DIVERGENCES[divergence](over) * temperature**2


def _numbers(positives: Int[Array, " b"] | None, m: int) -> tuple[Int[Array, " b"], Int[Array, " m"]]:
    columns = jnp.arange(m)
    return columns if positives is None else positives, columns


def _own_score(
    texts: Float[Array, "b d"],
    candidates: Float[Array, "m d"],
    positives: Int[Array, " b"] | None,
    similarity: Similarity,
) -> Float[Array, " b"]:
    """Similarity of each text with its own document; cosine of a text with itself is exactly 1, or 0 for zero."""
    if positives is not None:
        return paired(texts, candidates[positives], similarity)
    squares = paired(texts, texts, similarity)
    if similarity == "dot":
        return squares
    # Exactly 1, but with the derivative of the computed cosine, which cancels with that of equal texts in the row's
    # sum.
    value = lax.stop_gradient(squares)
    return jnp.sign(value) + (squares - value)
