"""False negatives: candidates that are as good as a row's own partner are left out of its negatives.

A filter is told what it must know of rows and of candidates, and judges one block of candidates at a time. The own
partner is never at stake: it is no negative. Own hard negatives are.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree
from pydantic import BeforeValidator, Field

from jdistill.config import Config
from jdistill.losses.base import share_of
from jdistill.losses.maths import Similarity, matmul, normalise
from jdistill.losses.schedule import Scheduled, Share, at
from jdistill.types import View

ROUNDING = 1e-6
"""Cosines closer than this are equal: float32 gives those of equal texts apart by less."""

Strategy = Literal["absolute", "relative"]
"""Whether a margin is in units of cosine, or a share of the own pair's cosine."""

Verdict = Callable[[PyTree[Array], PyTree[Array], Float[Array, "*p b k"]], Bool[Array, "b k"]]
"""`(what is known of rows, what is known of candidates, the student's scores) -> which are false negatives`. Scores may
be of several prefixes, for verdicts that do not depend on them."""


class Filter(NamedTuple):
    """One way to tell false negatives, on arrays."""

    verdict: Verdict
    rows: dict[str, PyTree[Array]]
    """What it knows of a row whose text is of `"queries"`, or of `"documents"`; leading axis `b`."""
    candidates: dict[str, PyTree[Array]]
    """What it knows of candidates that are `"queries"`, `[n, ...]`, or `"documents"`, `[m, ...]`."""


class Limit(NamedTuple):
    """From which of a guide's cosines on a candidate is a false negative, given that of the row's own pair."""

    margin: float | Float[Array, ""] = 0.0
    """Subtracted from the own pair's cosine g, or |g| times it if relative."""
    strategy: Strategy = "absolute"
    """`"absolute"` or `"relative"`."""
    active: bool | Bool[Array, ""] = True
    """False leaves out nothing."""


class TextFilter(Config):
    """Leave out candidates with the very text of the row's query or document."""

    by: Literal["text_hash"] = "text_hash"

    def of(self, view: View, similarity: Similarity) -> Filter:
        """The filter for the texts of a View that has queries; its candidates are the device's share."""
        queries, ids = view.ids.queries, view.ids
        if queries is None:
            raise ValueError("a filter by text compares queries, but the view has no numbers of queries")
        return same_text(queries, share_of(ids.documents, ids.negatives), jnp.arange(len(queries)))


class GuidedFilter(Config):
    """Leave out candidates that a guide finds closer to the row's text than its query is to its document.

    The guide's measure is cosine. With g the guide's cosine of the row's query and document, candidates above
    g - margin are left out, or above g - |g| margin.
    """

    margin: Scheduled = 0.0
    """How far below the own pair it begins: more leaves out more. At -2, or beyond, an absolute margin leaves out
    nothing, so a ramp that starts there brings the filter in step by step."""
    strategy: Strategy = "absolute"
    """Whether the margin is in units of cosine, or a share of the own pair's cosine."""
    begin: Share = 0.0
    """Share of the training before which nothing is left out."""

    def limit(self, progress: Float[Array, ""]) -> Limit:
        """Its options when a share `progress` of the training is done."""
        return Limit(at(self.margin, progress), self.strategy, progress >= self.begin)


class TeacherFilter(GuidedFilter):
    """Guided by the teacher's vectors."""

    by: Literal["teacher"] = "teacher"

    def of(self, view: View, similarity: Similarity) -> Filter:
        """The filter for the texts of a View that has queries and a teacher; candidates as above."""
        guide = view.teacher
        if guide is None or guide.queries is None:
            raise ValueError(
                "a filter by the teacher needs its vectors of queries and documents, but the view lacks some"
            )
        return _guided(
            normalise(guide.queries),
            normalise(guide.documents),
            normalise(share_of(guide.documents, guide.negatives)),
            limit=self.limit(view.progress),
        )


class StudentFilter(GuidedFilter):
    """Guided by the student itself: no gradient flows through what it finds.

    A student that has learned little is a poor guide, hence `begin` and ramps of `margin`.
    """

    by: Literal["student"] = "student"

    def of(self, view: View, similarity: Similarity) -> Filter:
        """The filter for the texts of a View that has queries; its candidates are the device's share."""
        guide = view.student
        if guide.queries is None:
            raise ValueError("a filter by the student needs its vectors of queries, but the view has none")
        queries, documents = normalise(guide.queries), normalise(guide.documents)
        limit = self.limit(view.progress)
        if similarity == "cosine":
            return _self_guided(queries, documents, limit)
        share = normalise(share_of(guide.documents, guide.negatives))
        return _guided(queries, documents, share, limit=limit)


def _listed(value: Any) -> Any:
    """A list of one where a single filter was given."""
    return (value,) if isinstance(value, dict | Config) else value


FalseNegatives = Annotated[
    tuple[Annotated[TextFilter | TeacherFilter | StudentFilter, Field(discriminator="by")], ...],
    BeforeValidator(_listed),
]
"""A list of filters, each `{by: text_hash}`, `{by: teacher, ...}` or `{by: student, ...}`; or a single one."""


def same_text(
    queries: Int[Array, " b"],
    candidates: Int[Array, " c"],
    positives: Int[Array, " b"],
    *,
    all_queries: Int[Array, " n"] | None = None,
) -> Filter:
    """Candidates that are the row's query or document word for word, whatever side they are on.

    Args:
      queries: numbers of the rows' queries; equal numbers are equal texts.
      candidates: numbers of all documents.
      positives: column of each row's own document.
      all_queries: numbers of the whole batch's queries; `queries` if they are all.
    """
    own = (queries, candidates[positives])
    return Filter(
        verdict=_is_own_text,
        rows={"queries": own, "documents": own},
        candidates={"queries": queries if all_queries is None else all_queries, "documents": candidates},
    )


def guided(
    queries: Float[Array, "b w"],
    candidates: Float[Array, "c w"],
    positives: Int[Array, " b"],
    *,
    all_queries: Float[Array, "n w"] | None = None,
    limit: Limit,
) -> Filter:
    """Candidates that a guide finds closer to the row's text than its query is to its document, strictly.

    Args:
      queries: the guide's vectors of the rows' queries, any float; compared by cosine in float32, without gradient.
      candidates: its vectors of all documents.
      positives: column of each row's own document.
      all_queries: its vectors of the whole batch's queries; `queries` if they are all.
      limit: the margin.

    Source:
      Solatorio 2024, arXiv:2402.16829, for margin 0; Moreira et al. 2024, arXiv:2407.15831, for both margins.
      Parity: sentence-transformers GISTEmbedLoss and CachedGISTEmbedLoss.
    """
    queries, candidates = normalise(queries), normalise(candidates)
    all_queries = queries if all_queries is None else normalise(all_queries)
    return _guided(queries, candidates[positives], candidates, all_queries=all_queries, limit=limit)


def _guided(
    queries: Float[Array, "b w"],
    documents: Float[Array, "b w"],
    candidates: Float[Array, "c w"],
    *,
    all_queries: Float[Array, "n w"] | None = None,
    limit: Limit,
) -> Filter:
    """The same, of unit vectors; `documents` are the rows' own."""
    threshold = _frozen(_threshold(queries, documents, limit))
    all_queries = queries if all_queries is None else all_queries
    return Filter(
        verdict=_is_closer,
        rows={"queries": (_frozen(queries), threshold), "documents": (_frozen(documents), threshold)},
        candidates={"queries": _frozen(all_queries), "documents": _frozen(candidates)},
    )


def self_guided(
    queries: Float[Array, "b d"],
    candidates: Float[Array, "c d"],
    positives: Int[Array, " b"],
    *,
    limit: Limit,
) -> Filter:
    """The same with the vectors that are being trained as guide, for scores that are their cosines.

    Nothing is scored twice: the loss's own scores are the guide's.
    """
    return _self_guided(normalise(queries), normalise(candidates[positives]), limit)


def _self_guided(queries: Float[Array, "b d"], documents: Float[Array, "b d"], limit: Limit) -> Filter:
    threshold = _frozen(_threshold(queries, documents, limit))
    return Filter(
        verdict=_scores_above,
        rows={"queries": threshold, "documents": threshold},
        candidates={"queries": (), "documents": ()},
    )


def _threshold(queries: Float[Array, "b w"], documents: Float[Array, "b w"], limit: Limit) -> Float[Array, " b"]:
    """Cosine of unit vectors above which a candidate is a false negative of each row."""
    pair = jnp.sum(queries * documents, axis=-1)
    threshold = pair - limit.margin * (jnp.abs(pair) if limit.strategy == "relative" else 1.0)
    return jnp.where(limit.active, threshold + ROUNDING, jnp.inf)


def _is_own_text(
    own: tuple[Int[Array, " b"], Int[Array, " b"]], candidates: Int[Array, " k"], scores: Float[Array, "*p b k"]
) -> Bool[Array, "b k"]:
    query, document = own
    return (query[:, None] == candidates[None]) | (document[:, None] == candidates[None])


def _is_closer(
    rows: tuple[Int[Array, "b w"], Int[Array, " b"]], candidates: Int[Array, "k w"], scores: Float[Array, "*p b k"]
) -> Bool[Array, "b k"]:
    vectors, threshold = rows
    return _scores_above(threshold, (), matmul(_thawed(vectors), _thawed(candidates).T))


def _scores_above(
    threshold: Int[Array, " b"], candidates: tuple[()], scores: Float[Array, "b k"]
) -> Bool[Array, "b k"]:
    return scores > _thawed(threshold)[:, None]


def _frozen(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """The bits of float32 numbers: what passes as integers is not differentiated, so no zeros are kept as its gradient.

    A loop over blocks of candidates would hold those, as large as the guide's vectors, once for every direction.
    """
    return lax.bitcast_convert_type(x, jnp.int32)


def _thawed(x: Int[Array, "..."]) -> Float[Array, "..."]:
    return lax.bitcast_convert_type(x, jnp.float32)
