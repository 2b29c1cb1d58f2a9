"""Folding: a long and a short text share a row, so that rows of few lengths hold texts of all lengths.

Where each text has a row to itself, six lengths waste a sixth on ordinary sentences at least, however rows are sorted.
Two by two, the longest with the shortest, they are nearly equally long, and as many lengths waste a twentieth. Packing
wastes less still where a piece has many texts; folding never needs more of them than two.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader.buckets import Lengths, Shape, make_buckets
from jdistill.loader.lengths import round_up
from jdistill.loader.plan import Plan, plan_epoch
from jdistill.loader.waiting import Texts

_WINDOWS = 32
"""Parts of the folds, by their rows' totals, within which rows may change partners."""
_TWICE = -1
"""Stands for the row that comes twice in an epoch, among the texts that may not meet in a batch."""


class Folds(NamedTuple):
    """Rows two by two."""

    rows: Int[np.ndarray, "folds 2"]
    texts: Texts
    """Of both rows of a fold: texts that may not meet in a batch."""


def plan_folded(
    lengths: Lengths,
    texts: Texts,
    shapes: Int[np.ndarray, "shapes 2"],
    multiples: Shape,
    order: Int[np.ndarray, " n"],
    *,
    batch_rows: int,
    keep_last: bool,
) -> Plan:
    """Batches of folds, in which the two rows of a fold follow each other.

    Args:
      lengths: tokens of each row.
      texts: texts of rows that may not meet in a batch; empty where duplicates are allowed.
      shapes: what folds are padded to, cheapest first; the last is made larger if some fold needs it.
      multiples: padded lengths are multiples of these.
      order: a permutation of all rows.
      batch_rows: rows per batch, an even number.
      keep_last: as of `plan_epoch`.
    """
    folds = fold(lengths, texts, order, keep_last=keep_last)
    queries, documents = folded_lengths(lengths, folds.rows)
    if queries.max() > shapes[-1, 0] or documents.max() > shapes[-1, 1]:
        sides = (queries, multiples.query), (documents, multiples.document)
        longest = [round_up(side, multiple).max() if side.any() else 0 for side, multiple in sides]
        shapes = np.concatenate([shapes[:-1], np.maximum(shapes[-1:], longest).astype(np.int32)])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    plan = plan_epoch(
        make_buckets(queries, documents, shapes),
        folds.texts,
        np.argsort(place[folds.rows[:, 0]], kind="stable"),
        batch_rows=batch_rows // 2,
        keep_last=keep_last,
    )
    return Plan(folds.rows[plan.rows].reshape(len(plan.rows), batch_rows), plan.shapes)


def fold(lengths: Lengths, texts: Texts, order: Int[np.ndarray, " n"], *, keep_last: bool) -> Folds:
    """Pair the shortest row with the longest, the next with the next, and none with one that shares a text with it.

    Which rows of like lengths are paired is random; how long the folds are is the same in every epoch, but for an odd
    row.

    Args:
      lengths: tokens of each row.
      texts: texts of rows that may not meet.
      order: a permutation of all rows.
      keep_last: pair an odd row with a row of another fold; otherwise leave it out.

    Raises:
      UserError: if a text stands in so many rows that they cannot all be paired.
    """
    even = len(order) // 2 * 2
    rest, odd = order[:even], order[even:].tolist()
    queries, documents = lengths.queries[rest], lengths.documents[rest]
    ascending = rest[np.lexsort((*documents.T, queries, queries + documents.sum(axis=1)))]
    # Among rows of like totals, long queries go with short ones, so that both sides of a fold are like other folds'.
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
    """Tokens that each fold needs: of its queries, and of its documents, the longest of its columns."""
    return lengths.queries[rows].sum(axis=1), lengths.documents[rows].sum(axis=1).max(axis=1)


def places(lengths: Int[np.ndarray, "k c"], *, padded: int, size: int) -> Int[np.ndarray, "rows size"]:
    """For each place of the shared rows, which of the `k * c * padded` padded places it holds; -1 where empty, int32.

    Args:
      lengths: tokens of the `c` texts of each row; each two rows that follow each other are a fold, and share `c` rows.
      padded: places of a text, padded.
      size: places of a shared row.
    """
    k, c = lengths.shape
    pairs = lengths.reshape(k // 2, 2, c)[..., None]
    starts = (np.arange(k * c) * padded).reshape(k // 2, 2, c)[..., None]
    place, first, both = np.arange(size), pairs[:, 0], pairs.sum(axis=1)
    packed = np.where(place < first, starts[:, 0] + place, starts[:, 1] + place - first)
    return np.where(place < both, packed, -1).reshape(-1, size).astype(np.int32)


def _by_windows(rows: Int[np.ndarray, " m"], keys: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Each part of the rows sorted by its keys."""
    return rows[np.lexsort((keys[rows], np.arange(len(rows)) * _WINDOWS // max(len(rows), 1)))]


def _part(short: list[int], long: list[int], texts: Texts) -> None:
    """Rows paired with one that shares a text change places with the nearest that does not, in place."""
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


def _apart(row: int, other: int, texts: Texts) -> bool:
    return set(texts.get(row, ())).isdisjoint(texts.get(other, ()))


def _too_frequent() -> UserError:
    return UserError(
        "loader.folding: rows are folded two by two, and some text stands in so many of them that loader.no_duplicates "
        "leaves no partner for each. Remove those rows from the data, or set loader.folding or loader.no_duplicates to "
        "false."
    )
