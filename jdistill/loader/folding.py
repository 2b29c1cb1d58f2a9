"""Folding: a long and a short text share a row, so that few row lengths suffice for texts of all lengths.

With one text per row and six lengths, at least about 17 % of the tokens of ordinary sentences are padding, however rows
are sorted. Pairs of a long and a short text are nearly equally long, and the same number of lengths leaves about 5 %.
Packing leaves less still if a piece has many texts; folding only needs two.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader.duplicates import SharedTexts
from jdistill.loader.plan import EpochPlan, plan_epoch
from jdistill.loader.shapes import Lengths, Shape, make_buckets, round_up

_WINDOWS = 32
"""Number of windows, by the rows' total lengths, within which rows may be paired differently."""
_TWICE = -1
"""Pseudo text id that keeps the two occurrences of a repeated row out of one batch."""


class Folds(NamedTuple):
    """Pairs of rows whose texts share encoder rows."""

    rows: Int[np.ndarray, "folds 2"]
    texts: SharedTexts
    """Texts of both rows of a fold that must not occur twice in a batch."""


def plan_folded(
    lengths: Lengths,
    texts: SharedTexts,
    shapes: Int[np.ndarray, "shapes 2"],
    multiples: Shape,
    order: Int[np.ndarray, " n"],
    *,
    batch_rows: int,
    keep_last: bool,
) -> EpochPlan:
    """Batches of folds; the two rows of a fold are adjacent.

    Args:
      lengths: number of tokens of each row's texts.
      texts: texts that must not occur in two rows of a batch; empty if duplicates are allowed.
      shapes: padded shapes of folds, cheapest first; the last is enlarged if a fold needs it.
      multiples: padded lengths are multiples of these.
      order: a permutation of all rows.
      batch_rows: rows per batch, an even number.
      keep_last: as for `plan_epoch`.
    """
    folds = fold(lengths, texts, order, keep_last=keep_last)
    queries, documents = folded_lengths(lengths, folds.rows)
    # The fold of an odd row, or one re-paired because of a shared text, may be longer than those the shapes were made
    # for.
    if queries.max() > shapes[-1, 0] or documents.max() > shapes[-1, 1]:
        sides = (queries, multiples.query), (documents, multiples.document)
        longest = [round_up(side, multiple).max() if side.any() else 0 for side, multiple in sides]
        shapes = np.concatenate([shapes[:-1], np.maximum(shapes[-1:], longest).astype(np.int32)])
    # The place of each row in the random order, by which the folds are ordered.
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    plan = plan_epoch(
        make_buckets(queries, documents, shapes),
        folds.texts,
        np.argsort(place[folds.rows[:, 0]], kind="stable"),
        batch_rows=batch_rows // 2,
        keep_last=keep_last,
    )
    return EpochPlan(folds.rows[plan.rows].reshape(len(plan.rows), batch_rows), plan.shapes)


def fold(lengths: Lengths, texts: SharedTexts, order: Int[np.ndarray, " n"], *, keep_last: bool) -> Folds:
    """Pair the shortest row with the longest, the second shortest with the second longest, and so on.

    Rows that share a text are not paired. Pairing is random among rows of similar length; the lengths of the folds are
    the same in every epoch, except for that of an odd row.

    Args:
      lengths: number of tokens of each row's texts.
      texts: texts that must not occur in both rows of a fold.
      order: a permutation of all rows.
      keep_last: pair an odd last row with a row of another fold; otherwise skip it.

    Raises:
      UserError: if a text occurs in too many rows to pair all of them.
    """
    even = len(order) // 2 * 2
    rest, odd = order[:even], order[even:].tolist()
    queries, documents = lengths.queries[rest], lengths.documents[rest]
    ascending = rest[np.lexsort((*documents.T, queries, queries + documents.sum(axis=1)))]
    # Among rows of similar total length, pair long queries with short ones, so that both sides of folds are balanced.
    lean = lengths.queries - lengths.documents.sum(axis=1)
    short = _by_windows(ascending[: even // 2], lean).tolist()
    long = _by_windows(ascending[::-1][: even // 2], -lean).tolist()
    if texts:
        _part(short, long, texts)
    rows = list(zip(short, long, strict=True))
    held = {i: texts.get(a, ()) + texts.get(b, ()) for i, (a, b) in enumerate(rows)} if texts else {}
    if odd and keep_last:
        twice = next((i for i, row in enumerate(short) if _apart(row, odd[0], texts)), None)
        if twice is None:
            raise _too_frequent()
        rows.append((short[twice], odd[0]))
        held[twice] = (*held.get(twice, ()), _TWICE)
        held[len(rows) - 1] = (*texts.get(short[twice], ()), *texts.get(odd[0], ()), _TWICE)
    return Folds(np.array(rows, np.int32), held)


def folded_lengths(
    lengths: Lengths, rows: Int[np.ndarray, "folds 2"]
) -> tuple[Int[np.ndarray, " folds"], Int[np.ndarray, " folds"]]:
    """Length of each fold in tokens: of its queries, and of its documents, the longest of its columns."""
    return lengths.queries[rows].sum(axis=1), lengths.documents[rows].sum(axis=1).max(axis=1)


def places(lengths: Int[np.ndarray, "k c"], *, padded: int, size: int) -> Int[np.ndarray, "rows size"]:
    """For each slot of the shared rows, the flat index into the `k * c * padded` padded tokens, -1 = empty, int32.

    Args:
      lengths: number of tokens of the `c` texts of each row; two adjacent rows are a fold, and share `c` rows.
      padded: padded length of a text.
      size: length of a shared row.
    """
    k, c = lengths.shape
    # Text i of one row of a fold shares a row with text i of the other.
    pairs = lengths.reshape(k // 2, 2, c)[..., None]
    starts = (np.arange(k * c) * padded).reshape(k // 2, 2, c)[..., None]
    place, first, both = np.arange(size), pairs[:, 0], pairs.sum(axis=1)
    packed = np.where(place < first, starts[:, 0] + place, starts[:, 1] + place - first)
    return np.where(place < both, packed, -1).reshape(-1, size).astype(np.int32)


def _by_windows(rows: Int[np.ndarray, " m"], keys: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Sort the rows by key within each window."""
    # `lexsort` sorts by its last argument first: the window.
    return rows[np.lexsort((keys[rows], np.arange(len(rows)) * _WINDOWS // max(len(rows), 1)))]


def _part(short: list[int], long: list[int], texts: SharedTexts) -> None:
    """Swap rows that are paired with one sharing a text with the nearest that resolves the conflict, in place."""
    for i in range(len(short)):
        if _apart(short[i], long[i], texts):
            continue
        near = (j for step in range(1, len(short)) for j in (i - step, i + step) if 0 <= j < len(short))
        for j in near:
            if _apart(short[j], long[i], texts) and _apart(short[i], long[j], texts):
                short[i], short[j] = short[j], short[i]
                break
        else:
            raise _too_frequent()


def _apart(row: int, other: int, texts: SharedTexts) -> bool:
    return set(texts.get(row, ())).isdisjoint(texts.get(other, ()))


def _too_frequent() -> UserError:
    return UserError(
        "loader.folding: folding pairs the rows of a batch, but a text occurs in too many rows, so "
        "loader.no_duplicates leaves a row without a partner. Remove those rows from the data, or set loader.folding "
        "or loader.no_duplicates to false."
    )
