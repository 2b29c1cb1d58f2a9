"""Packing: several texts per row of one fixed length, with hardly any padding.

Every piece of a batch, which a device encodes at once, is packed separately. Pieces have nearly equal numbers of tokens
(balance.py), so all need nearly the same number of rows, and one compiled program. Padding needs one per length.
"""

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader.balance import balance_batches, balance_parts
from jdistill.loader.duplicates import SharedTexts
from jdistill.loader.plan import EpochPlan, plan_epoch
from jdistill.loader.shapes import Buckets, Lengths

_FEW = 64
"""Up to this many rows a longer search for one row fewer is worthwhile."""


def plan_packed(
    lengths: Lengths, texts: SharedTexts, order: Int[np.ndarray, " n"], *, batch_rows: int, keep_last: bool
) -> EpochPlan:
    """Batches with nearly equal numbers of tokens.

    Args:
      lengths: number of tokens of each row's texts.
      texts: texts that must not occur in two rows of a batch; empty if duplicates are allowed.
      order: a permutation of all rows.
      batch_rows: rows per batch.
      keep_last: as for `plan_epoch`.

    Returns:
      The plan. Its shapes are placeholders, since the number of packed rows depends on the pieces, and the plan does
      not.
    """
    one = Buckets(np.zeros(len(order), np.int32), np.zeros((1, 2), np.int32))
    plan = plan_epoch(one, texts, order, batch_rows=batch_rows, keep_last=keep_last)
    documents = lengths.documents.sum(axis=1, dtype=np.int64)
    tokens = np.column_stack([lengths.queries, documents] if lengths.queries.any() else [documents])
    # Rows that occur once, and share no text with another row, may move to any batch.
    free = np.bincount(plan.rows.ravel(), minlength=len(order)) == 1
    free[list(texts)] = False
    return plan._replace(rows=balance_parts(balance_batches(plan.rows, tokens, free), tokens))


def packed_rows(lengths: Int[np.ndarray, " k"], capacity: int, enough: int = 0) -> int:
    """Number of rows used by `assign`; 0 if there are no tokens."""
    return int(assign(lengths, capacity, enough)[0].max(initial=-1)) + 1 if lengths.any() else 0


def assign(
    lengths: Int[np.ndarray, " k"], capacity: int, enough: int = 0
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Row and start position of each text.

    Texts are placed, longest first, into the fullest row with enough room (best fit). If that needs more rows than the
    number of tokens implies, rows are filled one by one instead, if that needs fewer.

    Args:
      lengths: number of tokens of each text.
      capacity: tokens per row.
      enough: number of rows that are available anyway: do not search for fewer.

    Raises:
      UserError: if a text is longer than a row.
    """
    if lengths.max(initial=0) > capacity:
        raise UserError(
            f"loader.packing={capacity}: a text has {lengths.max()} tokens and does not fit into a row. Raise it to "
            f"at least {lengths.max()}, or lower student.max_length."
        )
    fitted = _best_fit(lengths, capacity)
    least, needed = -(-int(lengths.sum()) // capacity), int(fitted[0].max(initial=0)) + 1
    if max(least, enough) < needed <= _FEW:
        filled = _filled(lengths, capacity, least)
        if filled[0].max() + 1 < needed:
            return filled
    return fitted


def _best_fit(lengths: Int[np.ndarray, " k"], capacity: int) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    row, first = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    having: dict[int, list[int]] = {}  # free slots -> rows
    some, rows = 0, 0  # bit i of `some`: there is a row with i free slots
    sizes = lengths.tolist()
    for text in np.argsort(-lengths, kind="stable").tolist():
        length = sizes[text]
        enough = some >> length
        if enough:
            left = length + (enough & -enough).bit_length() - 1
            at = having[left].pop()
            some ^= 0 if having[left] else 1 << left
        else:
            left, at, rows = capacity, rows, rows + 1
        row[text], first[text] = at, capacity - left
        having.setdefault(left - length, []).append(at)
        some |= 1 << (left - length)
    return row, first


def _filled(
    lengths: Int[np.ndarray, " k"], capacity: int, least: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Start each row with the longest text left, and fill it with as few others as possible.

    A row may keep the average free space of `least` rows: filling the first rows completely would use up the short
    texts that the last rows need. After Gupta and Ho 1999, "A new heuristic algorithm for the one-dimensional
    bin-packing problem", which fills rows completely. The possible sums of subsets are stored as bits of an integer.
    """
    row, first = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    sizes = lengths.tolist()
    left = [text for text in np.argsort(-lengths, kind="stable").tolist() if sizes[text]]
    empty, rows = least * capacity - sum(sizes), 0
    while left:
        room = capacity - sizes[left[0]]
        possible = [1]  # bit s of entry i: some subset of texts 1 to i has s tokens
        for text in left[1:]:
            possible.append((possible[-1] | possible[-1] << sizes[text]) & ((1 << (room + 1)) - 1))
        fullest = possible[-1].bit_length() - 1
        enough = min(fullest, room - max(empty, 0) // max(least - rows, 1))
        ways = [_subset(left, sizes, possible, s) for s in range(max(enough, 0), fullest + 1) if possible[-1] >> s & 1]
        # Prefer few texts, then long ones.
        others = min(ways, key=lambda way: (len(way), [-sizes[text] for text in way]))
        place = 0
        for text in (left[0], *others):
            row[text], first[text] = rows, place
            place += sizes[text]
        taken = {left[0], *others}
        left, rows, empty = [text for text in left if text not in taken], rows + 1, empty - (capacity - place)
    return row, first


def _subset(left: list[int], sizes: list[int], possible: list[int], total: int) -> list[int]:
    """A subset of the texts after the first with `total` tokens, preferring long texts, longest first."""
    taken = []
    for i in range(len(left) - 1, 0, -1):
        if not possible[i - 1] >> total & 1:  # impossible without this text
            taken.append(left[i])
            total -= sizes[left[i]]
    return taken[::-1]


def places(
    lengths: Int[np.ndarray, " k"], *, padded: int, rows: int, capacity: int
) -> Int[np.ndarray, "rows capacity"]:
    """For each slot of the packed rows, the flat index into the `k * padded` padded tokens, -1 = empty, int32."""
    row, first = assign(lengths, capacity, rows)
    # The index of each token in its text.
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = np.repeat(np.arange(len(lengths)) * padded, lengths) + within
    packed = np.full(rows * capacity, -1, np.int32)
    packed[np.repeat(row * capacity + first, lengths) + within] = source
    return packed.reshape(rows, capacity)
