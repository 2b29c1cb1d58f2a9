"""The negatives of each row: everything that outweighs its own pair, added up a block of candidates at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jdistill.losses.blocks import HERE, logsumexp_both, logsumexp_over
from jdistill.losses.contrast.false_negatives import Verdict
from jdistill.losses.contrast.hardness import RAISED, Hardness
from jdistill.losses.maths import matmul
from jdistill.types import Sweep


class Rows(NamedTuple):
    """Texts that candidates are scored against, one of each row."""

    vectors: Float[Array, "b d"]
    """Their products with those of candidates are the scores, before the temperature."""
    pair_scores: Float[Array, " b"]
    """Score of the row's query and document, which negatives are measured from."""
    rows: Int[Array, " b"]
    """Index of each row in the whole batch."""
    pairs: Int[Array, " b"]
    """Column of the row's own partner, or of the text itself where candidates are of its own side."""
    filters: tuple[Any, ...]
    """What each filter of false negatives must know of the row."""


class Candidates(NamedTuple):
    """Texts that rows are scored against."""

    vectors: Float[Array, "k d"]
    rows: Int[Array, " k"]
    """Index in the whole batch of the row that each belongs to."""
    columns: Int[Array, " k"]
    """Index of each among all candidates."""
    filters: tuple[Any, ...]
    """What each filter of false negatives must know of the candidate."""


class Sharpness(NamedTuple):
    """How scores become logits."""

    temperature: Float[Array, ""]
    strength: Float[Array, ""]


def log_excess(
    rows: Rows,
    candidates: Candidates,
    sharpness: Sharpness,
    *,
    one_side: bool,
    hardness: Hardness = "none",
    verdicts: Sequence[Verdict] = (),
    block: int,
    sweep: Sweep = HERE,
) -> Float[Array, " b"]:
    """`log sum_j exp(l_ij - l_i)` over each row's negatives j, where l_i is the logit of its own pair.

    Args:
      rows: texts of this shard's rows.
      candidates: texts of the whole batch, or this device's share of them.
      sharpness: how scores become logits.
      one_side: rows and candidates are both queries, or both documents: then all of a row's own texts are left out.
        Otherwise only its own partner is.
      hardness: which negatives are raised by `strength` times their score.
      verdicts: of each filter of false negatives, in the order of `filters` of rows and candidates.
      block: candidates scored at a time; decides memory, never the result.
      sweep: brings the shares of all devices together.

    Returns:
      `[b]`; -inf, with no gradient, for a row that has no negatives.
    """
    tile = partial(excesses, one_side=one_side, hardness=hardness, verdicts=tuple(verdicts))
    return logsumexp_over(tile, rows, candidates, sharpness, block=block, sweep=sweep)


class Half(NamedTuple):
    """One side of this device's pairs, whose texts are rows of one direction and candidates of the other."""

    vectors: Float[Array, "b d"]
    pair_scores: Float[Array, " b"]
    rows: Int[Array, " b"]
    """Index of each row in the whole batch."""
    as_rows: tuple[Any, ...]
    """What each filter of false negatives must know of the text as a row."""
    as_candidates: tuple[Any, ...]
    """What each filter must know of it as a candidate."""


def log_excess_both(
    queries: Half,
    documents: Half,
    sharpness: Sharpness,
    *,
    hardness: Hardness = "none",
    verdicts: Sequence[Verdict] = (),
    block: int,
    sweep: Sweep = HERE,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """`log_excess` of q2d and of d2q, without hard negatives, in one pass: each pair of texts is scored once."""
    tile = partial(both_excesses, hardness=hardness, verdicts=tuple(verdicts))
    return logsumexp_both(tile, queries, documents, sharpness, block=block, sweep=sweep)


def both_excesses(
    queries: Half, documents: Half, sharpness: Sharpness, *, hardness: Hardness, verdicts: tuple[Verdict, ...]
) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
    """How far each document's logit lies above that of the query's own pair, and each query's above the document's."""
    scores = matmul(queries.vectors, documents.vectors.T)
    pair = queries.rows[:, None] == documents.rows[None]
    q2d = (scores - queries.pair_scores[:, None]) / sharpness.temperature
    d2q = (scores - documents.pair_scores[None]) / sharpness.temperature
    if hardness != "none":
        q2d += jnp.where(RAISED[hardness](pair), sharpness.strength * lax.stop_gradient(scores), 0.0)
    out_of_q2d = out_of_d2q = pair
    for i, verdict in enumerate(verdicts):
        out_of_q2d |= verdict(queries.as_rows[i], documents.as_candidates[i], scores)
        out_of_d2q |= verdict(documents.as_rows[i], queries.as_candidates[i], scores.T).T
    return jnp.where(out_of_q2d, -jnp.inf, q2d), jnp.where(out_of_d2q, -jnp.inf, d2q)


def excesses(
    rows: Rows,
    candidates: Candidates,
    sharpness: Sharpness,
    *,
    one_side: bool,
    hardness: Hardness,
    verdicts: tuple[Verdict, ...],
) -> Float[Array, "b k"]:
    """How far each negative's logit lies above that of the row's own pair; -inf for what is no negative."""
    scores = matmul(rows.vectors, candidates.vectors.T)
    logits = (scores - rows.pair_scores[:, None]) / sharpness.temperature
    pair = rows.pairs[:, None] == candidates.columns[None]
    own = pair | (rows.rows[:, None] == candidates.rows[None])
    if hardness != "none":
        logits += jnp.where(RAISED[hardness](own), sharpness.strength * lax.stop_gradient(scores), 0.0)
    left_out = own if one_side else pair
    for verdict, row, candidate in zip(verdicts, rows.filters, candidates.filters, strict=True):
        left_out |= verdict(row, candidate, scores)
    return jnp.where(left_out, -jnp.inf, logits)
