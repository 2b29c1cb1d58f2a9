"""Sum over the negatives of each row, relative to its positive, one block of candidates at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jdistill.losses.blocks import SINGLE_DEVICE, logsumexp_both, logsumexp_over
from jdistill.losses.contrast.false_negatives import Verdict
from jdistill.losses.contrast.hardness import HARDNESS_MASKS, Hardness
from jdistill.losses.contrast.prefixes import Vectors, products
from jdistill.types import CandidateExchange


class Rows(NamedTuple):
    """The texts on the row side of the score matrix, one per row."""

    vectors: Vectors
    """Their inner products with the candidates' vectors are the scores, before the temperature."""
    pair_scores: Float[Array, " b *p"]
    """Score of the positive, the row's query and document; negatives are taken relative to it."""
    rows: Int[Array, " b"]
    """Index of each row in the whole batch."""
    pairs: Int[Array, " b"]
    """Column of the positive; of the text itself if candidates are of the same side."""
    filters: tuple[Any, ...]
    """Each false-negative filter's input for the row."""


class Candidates(NamedTuple):
    """The texts on the column side of the score matrix."""

    vectors: Vectors
    rows: Int[Array, " k"]
    """Index in the whole batch of the row each belongs to."""
    columns: Int[Array, " k"]
    """Index of each among all candidates."""
    filters: tuple[Any, ...]
    """Each false-negative filter's input for the candidate."""


class LogitParams(NamedTuple):
    """Scaling of scores to logits."""

    temperature: Float[Array, ""]
    strength: Float[Array, ""]


def negative_logsumexp(
    rows: Rows,
    candidates: Candidates,
    sharpness: LogitParams,
    *,
    one_side: bool,
    hardness: Hardness = "none",
    verdicts: Sequence[Verdict] = (),
    widths: tuple[int, ...] = (),
    block: int,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, "*p b"]:
    """`log sum_j exp(l_ij - l_i)` over each row's negatives j, where l_i is the logit of its positive.

    Args:
      rows: texts of this shard's rows.
      candidates: texts of the whole batch, or this device's share of them.
      sharpness: temperature and strength of hardness.
      one_side: rows and candidates are both queries, or both documents: then all of a row's own texts are excluded.
        Otherwise only its positive is.
      hardness: negatives whose logit is raised by `strength` times their score.
      verdicts: of each false-negative filter, in the order of `filters` of rows and candidates.
      widths: of the prefixes, if vectors are Prefixed; ascending.
      block: candidates scored at a time; affects memory and speed only.
      sweep: pairs the rows with the candidates of all devices.

    Returns:
      `[b]`, or `[p, b]` of p prefixes; -inf, with no gradient, for a row that has no negatives.
    """
    tile = partial(excesses, one_side=one_side, hardness=hardness, verdicts=tuple(verdicts), widths=widths)
    return logsumexp_over(tile, rows, candidates, sharpness, block=block, sweep=sweep)


class PairSide(NamedTuple):
    """One side of this device's pairs: rows of one direction, candidates of the other."""

    vectors: Vectors
    pair_scores: Float[Array, " b *p"]
    rows: Int[Array, " b"]
    """Index of each row in the whole batch."""
    as_rows: tuple[Any, ...]
    """Each false-negative filter's input for the text as a row."""
    as_candidates: tuple[Any, ...]
    """Each filter's input for the text as a candidate."""


def negative_logsumexp_both(
    queries: PairSide,
    documents: PairSide,
    sharpness: LogitParams,
    *,
    hardness: Hardness = "none",
    verdicts: Sequence[Verdict] = (),
    widths: tuple[int, ...] = (),
    block: int,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> tuple[Float[Array, "*p b"], Float[Array, "*p b"]]:
    """`log_excess` of q2d and of d2q, without hard negatives, in one pass that scores each pair once."""
    tile = partial(negative_logits_both, hardness=hardness, verdicts=tuple(verdicts), widths=widths)
    return logsumexp_both(tile, queries, documents, sharpness, block=block, sweep=sweep)


def negative_logits_both(
    queries: PairSide,
    documents: PairSide,
    sharpness: LogitParams,
    *,
    hardness: Hardness,
    verdicts: tuple[Verdict, ...],
    widths: tuple[int, ...],
) -> tuple[Float[Array, "*p b k"], Float[Array, "*p b k"]]:
    """Logits of q2d relative to each query's positive, of d2q to each document's; -inf for what is not a negative."""
    scores = products(queries.vectors, documents.vectors, widths)
    pair = queries.rows[:, None] == documents.rows[None]
    of_queries, of_documents = (jnp.moveaxis(half.pair_scores, 0, -1) for half in (queries, documents))
    q2d = (scores - of_queries[..., :, None]) / sharpness.temperature
    d2q = (scores - of_documents[..., None, :]) / sharpness.temperature
    if hardness != "none":
        q2d += _raised(scores, HARDNESS_MASKS[hardness](pair), sharpness)
    out_of_q2d = out_of_d2q = pair
    for i, verdict in enumerate(verdicts):
        out_of_q2d |= verdict(queries.as_rows[i], documents.as_candidates[i], scores)
        out_of_d2q |= verdict(documents.as_rows[i], queries.as_candidates[i], scores.mT).T
    return _without(q2d, out_of_q2d), _without(d2q, out_of_d2q)


def excesses(
    rows: Rows,
    candidates: Candidates,
    sharpness: LogitParams,
    *,
    one_side: bool,
    hardness: Hardness,
    verdicts: tuple[Verdict, ...],
    widths: tuple[int, ...],
) -> Float[Array, "*p b k"]:
    """Logit of each negative relative to the row's positive; -inf for candidates that are not negatives."""
    scores = products(rows.vectors, candidates.vectors, widths)
    logits = (scores - jnp.moveaxis(rows.pair_scores, 0, -1)[..., :, None]) / sharpness.temperature
    pair = rows.pairs[:, None] == candidates.columns[None]
    own = pair | (rows.rows[:, None] == candidates.rows[None])
    if hardness != "none":
        logits += _raised(scores, HARDNESS_MASKS[hardness](own), sharpness)
    left_out = own if one_side else pair
    for verdict, row, candidate in zip(verdicts, rows.filters, candidates.filters, strict=True):
        left_out |= verdict(row, candidate, scores)
    return _without(logits, left_out)


def _raised(
    scores: Float[Array, "*p b k"], which: Bool[Array, "b k"], sharpness: LogitParams
) -> Float[Array, "*p b k"]:
    return jnp.where(jnp.broadcast_to(which, scores.shape), sharpness.strength * lax.stop_gradient(scores), 0.0)


def _without(logits: Float[Array, "*p b k"], left_out: Bool[Array, "b k"]) -> Float[Array, "*p b k"]:
    return jnp.where(jnp.broadcast_to(left_out, logits.shape), -jnp.inf, logits)
