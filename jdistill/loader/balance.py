"""Exchange rows until batches, and the parts of each batch, have nearly equal numbers of tokens.

Each part of a batch is packed separately, and the fullest decides how many packed rows all have. Random batches of 64
texts differ by about 20 %. Batches are paired, the heaviest with the lightest, and each pair exchanges the two rows
that equalise it best; after a dozen rounds all are equal up to a few tokens, and nearly all rows are still in their
random batch. The parts of a batch result from repeated halving, so any number of equal parts works, and the order of a
batch's rows does not depend on that number.

Only sums and products in a fixed order are used, so every host computes the same batches.
"""

import numpy as np
from jaxtyping import Bool, Int

_ROUNDS = 64
_TOLERANCE = 512
"""Batches that differ by less than one token in this many count as equal."""
_TRIED = 32
"""Rows of each side tried for an exchange in a round."""
_HALVES = 2
"""Rounds for two halves, whose difference is small from the start."""
_CHUNK = 256
"""Pairs processed together; bounds memory."""

RowGroups = Int[np.ndarray, "groups rows"]
TokenCounts = Int[np.ndarray, "n sides"]
"""For every row of the store, the number of tokens of its query, if any, and of its documents."""


def balance_batches(rows: RowGroups, tokens: TokenCounts, free: Bool[np.ndarray, " n"]) -> RowGroups:
    """The batches after exchanges.

    Args:
      rows: the rows of each batch.
      tokens: of all rows.
      free: rows that may be moved to any batch.
    """
    rows = rows.copy()
    half, tolerance = len(rows) // 2, np.maximum(tokens[rows].sum(axis=(0, 1)) // (len(rows) * _TOLERANCE), 1)
    for turn in range(_ROUNDS):
        sums = tokens[rows].sum(axis=1)
        apart = np.ptp(sums, axis=0)
        if half == 0 or (apart <= tolerance).all():
            break
        # By the side, queries or documents, that is furthest from balanced.
        ranked = np.argsort(sums[:, np.argmax(apart / tolerance)], kind="stable")
        heavy, light = ranked[::-1][:half], ranked[:half]
        unequal = (np.abs(sums[heavy] - sums[light]) > tolerance).any(axis=1)
        heavy, light = heavy[unequal], light[unequal]
        rows[heavy], rows[light] = _exchanged(rows[heavy], rows[light], tokens, turn, free)
    return rows


def balance_parts(rows: RowGroups, tokens: TokenCounts) -> RowGroups:
    """Reorder each batch's rows so that equal contiguous parts have texts of all lengths, and similar sums."""
    count, size = rows.shape
    if size == 1:
        return rows
    rows = np.take_along_axis(rows, np.argsort(tokens[rows].sum(axis=2), axis=1, kind="stable"), axis=1)
    first = (np.arange(size) + 1) // 2 % 2 == 0  # 0, 3, 4, 7, 8, ... of those sorted by length
    # The first half has the additional row of an odd number.
    if 2 * first.sum() < size:
        first = ~first
    halves = rows[:, first], rows[:, ~first]
    for turn in range(_HALVES):
        halves = _exchanged(*halves, tokens, turn)
    # Halves of unequal size cannot be stacked.
    if size % 2:
        return np.concatenate([balance_parts(half, tokens) for half in halves], axis=1)
    both = balance_parts(np.concatenate(halves), tokens)
    return np.concatenate([both[:count], both[count:]], axis=1)


def _exchanged(
    ones: RowGroups, others: RowGroups, tokens: TokenCounts, turn: int, free: Bool[np.ndarray, " n"] | None = None
) -> tuple[RowGroups, RowGroups]:
    """Exchange one row of each pair of groups such that their difference becomes smallest, if any exchange reduces
    it.
    """
    ones, others = ones.copy(), others.copy()
    # Queries and documents count relative to their totals.
    weights = 1.0 / np.maximum(tokens.sum(axis=0), 1)
    for start in range(0, len(ones), _CHUNK):
        a, b = ones[start : start + _CHUNK], others[start : start + _CHUNK]
        i, j = _tried(a.shape[1], turn), _tried(b.shape[1], turn)
        gaps = tokens[a].sum(axis=1) - tokens[b].sum(axis=1)
        x, y = tokens[a[:, i]], tokens[b[:, j]]
        shape = (len(a), len(i), len(j))
        now, then = np.zeros(len(a)), np.zeros(shape)
        for side, weight in enumerate(weights):
            # An exchange takes x - y from one group and gives it to the other: the gap changes by twice that.
            moved = 2 * (x[:, :, None, side] - y[:, None, :, side])
            now += (gaps[:, side] * weight) ** 2
            then += ((gaps[:, side, None, None] - moved) * weight) ** 2
        if free is not None:
            then[~(free[a[:, i]][:, :, None] & free[b[:, j]][:, None, :])] = np.inf
        best = then.reshape(len(a), -1).argmin(axis=1)
        pairs = np.flatnonzero(then.reshape(len(a), -1)[np.arange(len(a)), best] < now)
        p, q = i[best[pairs] // len(j)], j[best[pairs] % len(j)]
        a[pairs, p], b[pairs, q] = b[pairs, q], a[pairs, p]  # in-place on views of `ones` and `others`
    return ones, others


def _tried(size: int, turn: int) -> Int[np.ndarray, " tried"]:
    """Indices to try: all of a small group, else evenly spaced ones, different in each round."""
    count = min(size, _TRIED)
    return (np.arange(count) * size // count + turn) % size
