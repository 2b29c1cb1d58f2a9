"""Filters for false negatives: candidates as good as a row's own partner are excluded from its negatives.

A filter has arrays for rows and for candidates, and is applied to one block of candidates at a time. It can exclude a
row's own hard negatives, but never its positive.
"""

__all__ = ["Limit", "StudentFilter", "TeacherFilter", "TextFilter", "guided", "same_text", "self_guided"]

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree
from pydantic import BeforeValidator, Field

from jdistill.config import Config
from jdistill.losses.base import local_candidates, own_documents
from jdistill.losses.maths import Similarity, matmul, normalise
from jdistill.losses.schedule import Scheduled, Share, at
from jdistill.types import LossInputs

ROUNDING = 1e-6
"""Cosines closer than this count as equal; the float32 rounding error of equal texts is smaller."""

Strategy = Literal["absolute", "relative"]
"""Whether a margin is in units of cosine, or a fraction of the positive's cosine."""

Excludes = Callable[[PyTree[Array], PyTree[Array], Float[Array, "b k"]], Bool[Array, "b k"]]
"""`(arrays of rows, arrays of candidates, the student's scores) -> mask of false negatives`."""


class Filter(NamedTuple):
    """A filter for false negatives, on arrays."""

    excludes: Excludes
    rows: dict[str, PyTree[Array]]
    """Input for rows whose text is one of `"queries"`, or of `"documents"`; leading axis `b`."""
    candidates: dict[str, PyTree[Array]]
    """Input for candidates that are `"queries"`, `[n, ...]`, or `"documents"`, `[c, ...]`."""


class Limit(NamedTuple):
    """Threshold on a guide's cosine above which a candidate is a false negative, relative to the positive's cosine."""

    margin: float | Float[Array, ""] = 0.0
    """Subtracted from the positive's cosine g; if relative, |g| times it is."""
    strategy: Strategy = "absolute"
    """`"absolute"` or `"relative"`."""
    active: bool | Bool[Array, ""] = True
    """False excludes nothing."""


class TextFilter(Config):
    """Exclude candidates whose text equals the row's query or document."""

    by: Literal["text_hash"] = "text_hash"

    def make(self, inputs: LossInputs, similarity: Similarity) -> Filter:
        """The filter for inputs that have queries; its candidates are this device's."""
        ids = inputs.ids
        if ids.queries is None:
            raise ValueError("a filter by text compares queries, but there are no ids of queries")
        return same_text(ids.queries, local_candidates(ids.documents, ids.negatives))


class GuidedFilter(Config):
    """Exclude candidates that a guide finds closer to the row's text than its query is to its document.

    With g the guide's cosine of the row's query and document, candidates whose cosine is above g - margin are excluded,
    or above g - |g| margin if `strategy` is relative.
    """

    margin: Scheduled = 0.0
    """Distance of the threshold below the positive's cosine: larger excludes more. An absolute margin of -2 or less
    excludes nothing, so a ramp from there introduces the filter gradually."""
    strategy: Strategy = "absolute"
    """Whether the margin is in units of cosine, or a fraction of the positive's cosine."""
    begin: Share = 0.0
    """Fraction of training before which nothing is excluded."""

    def limit(self, progress: Float[Array, ""]) -> Limit:
        """The threshold at `progress`, the fraction of training done."""
        return Limit(at(self.margin, progress), self.strategy, progress >= self.begin)


class TeacherFilter(GuidedFilter):
    """Guided by the teacher's vectors."""

    by: Literal["teacher"] = "teacher"

    def make(self, inputs: LossInputs, similarity: Similarity) -> Filter:
        """The filter for inputs that have queries and a teacher; its candidates are this device's."""
        guide = inputs.teacher
        if guide is None or guide.queries is None:
            raise ValueError("a filter by the teacher needs its vectors of queries and documents, but they are missing")
        candidates = local_candidates(guide.documents, guide.negatives)
        return guided(guide.queries, candidates, limit=self.limit(inputs.progress))


class StudentFilter(GuidedFilter):
    """Guided by the student itself, without gradient.

    Early in training the student is a poor guide: use `begin` or a ramp of `margin`.
    """

    by: Literal["student"] = "student"

    def make(self, inputs: LossInputs, similarity: Similarity) -> Filter:
        """The filter for inputs that have queries; its candidates are this device's."""
        guide = inputs.student
        if guide.queries is None:
            raise ValueError("a filter by the student needs its vectors of queries, but there is none")
        # Scores that are cosines already serve as the guide's; dot products do not, so cosines are computed beside
        # them.
        by = self_guided if similarity == "cosine" else guided
        candidates = local_candidates(guide.documents, guide.negatives)
        return by(guide.queries, candidates, limit=self.limit(inputs.progress))


def _listed(value: Any) -> Any:
    """Wrap a single filter in a tuple."""
    return (value,) if isinstance(value, dict | Config) else value


FalseNegatives = Annotated[
    tuple[Annotated[TextFilter | TeacherFilter | StudentFilter, Field(discriminator="by")], ...],
    BeforeValidator(_listed),
]
"""One filter, or a list of them: `{by: text_hash}`, `{by: teacher, ...}` or `{by: student, ...}`."""


def same_text(
    queries: Int[Array, " b"],
    candidates: Int[Array, " c"],
    positives: Int[Array, " b"] | None = None,
    *,
    all_queries: Int[Array, " n"] | None = None,
) -> Filter:
    """Filter for candidates, queries or documents, whose text equals the row's query or document.

    Args:
      queries: text ids of the rows' queries; equal ids are equal texts.
      candidates: text ids of all documents, or of this device's.
      positives: column of each row's own document, `[b]`; by default the first `b` candidates.
      all_queries: text ids of the whole batch's queries; by default `queries`.
    """
    own_text = queries, own_documents(candidates, positives, len(queries))
    return Filter(
        _is_own_text,
        rows={"queries": own_text, "documents": own_text},
        candidates={"queries": queries if all_queries is None else all_queries, "documents": candidates},
    )


def guided(
    queries: Float[Array, "b w"],
    candidates: Float[Array, "c w"],
    positives: Int[Array, " b"] | None = None,
    *,
    all_queries: Float[Array, "n w"] | None = None,
    limit: Limit,
) -> Filter:
    """Filter for candidates that a guide finds strictly closer to the row's text than its query is to its document.

    Args:
      queries: the guide's vectors of the rows' queries, any float; compared by cosine in float32, without gradient.
      candidates: the guide's vectors of all documents, or of this device's.
      positives: column of each row's own document, `[b]`; by default the first `b` candidates.
      all_queries: the guide's vectors of the whole batch's queries; by default `queries`.
      limit: the threshold.

    Source:
      Solatorio 2024, arXiv:2402.16829, for margin 0; Moreira et al. 2024, arXiv:2407.15831, for both margins.
      Parity: sentence-transformers GISTEmbedLoss and CachedGISTEmbedLoss.
    """
    queries, candidates = normalise(queries), normalise(candidates)
    all_queries = queries if all_queries is None else normalise(all_queries)
    documents = own_documents(candidates, positives, len(queries))
    threshold = _bitcast_to_int(_threshold(queries, documents, limit))
    return Filter(
        _is_closer,
        rows={
            "queries": (_bitcast_to_int(queries), threshold),
            "documents": (_bitcast_to_int(documents), threshold),
        },
        candidates={"queries": _bitcast_to_int(all_queries), "documents": _bitcast_to_int(candidates)},
    )


def self_guided(
    queries: Float[Array, "b d"],
    candidates: Float[Array, "c d"],
    positives: Int[Array, " b"] | None = None,
    *,
    limit: Limit,
) -> Filter:
    """`guided` with the vectors being trained as the guide, for a loss whose scores are their cosines.

    The loss's scores are reused, so nothing is scored twice. Arguments as for `guided`.
    """
    documents = normalise(own_documents(candidates, positives, len(queries)))
    threshold = _bitcast_to_int(_threshold(normalise(queries), documents, limit))
    return Filter(
        _scores_above,
        rows={"queries": threshold, "documents": threshold},
        candidates={"queries": (), "documents": ()},
    )


def _threshold(queries: Float[Array, "b w"], documents: Float[Array, "b w"], limit: Limit) -> Float[Array, " b"]:
    """Cosine above which a candidate is a false negative, for each row; takes unit vectors."""
    # A copy of the positive has its cosine up to rounding, and is not strictly closer: hence ROUNDING. No cosine is
    # above inf, so that an inactive filter excludes nothing; `active` is traced and cannot choose another program.
    pair = jnp.sum(queries * documents, axis=-1)
    threshold = pair - limit.margin * (jnp.abs(pair) if limit.strategy == "relative" else 1.0)
    return jnp.where(limit.active, threshold + ROUNDING, jnp.inf)


def _is_own_text(
    own: tuple[Int[Array, " b"], Int[Array, " b"]], candidates: Int[Array, " k"], scores: Float[Array, "b k"]
) -> Bool[Array, "b k"]:
    query, document = own
    return (query[:, None] == candidates[None]) | (document[:, None] == candidates[None])


def _is_closer(
    rows: tuple[Int[Array, "b w"], Int[Array, " b"]], candidates: Int[Array, "k w"], scores: Float[Array, "b k"]
) -> Bool[Array, "b k"]:
    vectors, threshold = rows
    return _scores_above(threshold, (), matmul(_bitcast_to_float(vectors), _bitcast_to_float(candidates).T))


def _scores_above(
    threshold: Int[Array, " b"], candidates: tuple[()], scores: Float[Array, "b k"]
) -> Bool[Array, "b k"]:
    return scores > _bitcast_to_float(threshold)[:, None]


def _bitcast_to_int(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """The bits of float32 values as int32, so that autodiff treats them as constants and allocates no gradient.

    A loop over blocks of candidates would otherwise carry a zero gradient as large as the guide's vectors, once for
    each direction.
    """
    return lax.bitcast_convert_type(x, jnp.int32)


def _bitcast_to_float(x: Int[Array, "..."]) -> Float[Array, "..."]:
    return lax.bitcast_convert_type(x, jnp.float32)
