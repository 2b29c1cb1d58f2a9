"""Padded shapes with little padding, and buckets: rows grouped by the shape they fit into.

For one side the best lengths are found exactly, by dynamic programming over the length histogram. Query and document
lengths are correlated, so a grid of all pairs of lengths would have shapes that hardly any row needs, and too few in
between. Shapes chosen as pairs need a third less padding with the same number of programs.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_GRID = 24
"""Candidate lengths per side: more would not improve the result, and this many are fast to search."""
_ROUNDS = 20
"""Maximum number of rounds of moving each shape; a few suffice."""


class Shape(NamedTuple):
    """Padded lengths of a batch in tokens, or its numbers of packed rows."""

    query: int
    """0 if the rows are plain texts."""
    document: int


class Lengths(NamedTuple):
    """Number of tokens of each row's texts."""

    queries: Int[np.ndarray, " n"]
    """Zeros if the rows are plain texts."""
    documents: Int[np.ndarray, "n c"]


class Buckets(NamedTuple):
    """The bucket of each row, and the padded shape of each bucket."""

    of_row: Int[np.ndarray, " n"]
    shapes: Int[np.ndarray, "buckets 2"]
    """Query and document length, cheapest first."""


def make_buckets(
    queries: Int[np.ndarray, " n"], documents: Int[np.ndarray, " n"], shapes: Int[np.ndarray, "buckets 2"]
) -> Buckets:
    """Assign each row to the cheapest shape it fits into.

    Args:
      queries: number of tokens of each row's query, `[n]`.
      documents: number of tokens of each row's longest document, `[n]`.
      shapes: cheapest first; every row must fit into the last.
    """
    of_row = np.zeros(len(queries), np.int32)
    left = np.ones(len(queries), bool)
    for bucket, (query, document) in enumerate(shapes.tolist()):
        here = left & (queries <= query) & (documents <= document)
        of_row[here] = bucket
        left &= ~here
    if left.any():
        raise ValueError("every row must fit into the last shape")
    return Buckets(of_row, shapes)


def holding(shapes: Int[np.ndarray, "k 2"], wanted: Int[np.ndarray, "m 2"]) -> Bool[np.ndarray, "m k"]:
    """Which shapes are at least as long as the wanted ones, on both sides."""
    return np.all(shapes[None, :, :] >= wanted[:, None, :], axis=-1)


def static_shapes(
    queries: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, " n"],
    *,
    multiples: Shape,
    at_most: int,
    columns: int,
) -> Int[np.ndarray, "shapes 2"]:
    """Shapes with few padding tokens, if each row is padded to the cheapest shape it fits into.

    Optimal for plain texts. For pairs, greedy with local search: add the shape that saves most until there are enough,
    then move each in turn to where it saves most, as long as that helps.

    Args:
      queries: number of tokens of each row's query, zeros if rows are plain texts, `[n]`.
      documents: number of tokens of each row's longest document, `[n]`.
      multiples: every padded length is a multiple of its side's.
      at_most: maximum number of shapes; fewer are returned if more would save nothing.
      columns: number of documents per row.

    Returns:
      Query and document length of each shape, cheapest first; every row fits into the last.
    """
    if not queries.any():
        lengths = static_lengths(documents, multiple=multiples.document, at_most=at_most)
        return np.array([(0, length) for length in lengths], np.int32)
    sides = (queries, multiples.query), (documents, multiples.document)
    edges = [np.array(static_lengths(side, multiple=multiple, at_most=_GRID)) for side, multiple in sides]
    # A histogram on the grid: each row counts in the smallest cell that holds it.
    cell = [np.searchsorted(edge, side) for edge, (side, _) in zip(edges, sides, strict=True)]
    rows = np.bincount(cell[0] * len(edges[1]) + cell[1], minlength=len(edges[0]) * len(edges[1]))
    grid = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 2)
    chosen = _chosen(grid, rows.astype(np.float64), np.array([1, columns]), at_most)
    costs = grid[chosen] @ np.array([1, columns])
    return grid[chosen][np.argsort(costs, kind="stable")].astype(np.int32)


def _chosen(
    grid: Int[np.ndarray, "cells 2"], rows: Float[np.ndarray, " cells"], weights: Int[np.ndarray, " 2"], at_most: int
) -> list[int]:
    """Indices of the grid cells chosen as shapes. All sums are of integers, so the result is the same on every
    machine.
    """
    filled = rows > 0
    rows = rows[filled]
    holds = (grid[:, None, :] >= grid[None, filled, :]).all(axis=-1)
    # [shape, cell]: the tokens of a row of the cell if padded to the shape.
    cost = np.where(holds, (grid @ weights).astype(np.float64)[:, None], np.inf)

    def with_one_more(shapes: list[int]) -> Float[np.ndarray, " cells"]:
        """Total padded tokens if a cell were added to these shapes, for each cell."""
        return np.minimum(cost, cost[shapes].min(axis=0)[None, :]) @ rows

    # The largest shape must be there for the longest rows, and stays.
    chosen, best = [len(grid) - 1], with_one_more([len(grid) - 1])[-1]
    while len(chosen) < at_most:
        costs = with_one_more(chosen)
        if costs.min() >= best:
            return chosen
        chosen, best = [*chosen, int(costs.argmin())], costs.min()
    for _ in range(_ROUNDS):
        before = best
        for place in range(1, len(chosen)):
            costs = with_one_more(chosen[:place] + chosen[place + 1 :])
            chosen[place], best = int(costs.argmin()), costs.min()
        if best >= before:
            break
    return chosen


def static_lengths(lengths: Int[np.ndarray, " n"], *, multiple: int, at_most: int) -> tuple[int, ...]:
    """The padded lengths that minimise the total number of tokens if each text is padded to the next length.

    With texts sorted by length and cut into `at_most` groups, a group costs `count * longest`; the best cut for
    `k` groups follows from the best cuts for `k - 1`:

        best_k(j) = min_{i<j} best_{k-1}(i) + edge_j * (texts up to j - texts up to i)

    Args:
      lengths: number of tokens of each text, `[n]`, `n >= 1`, values >= 0.
      multiple: every padded length is a multiple of this.
      at_most: maximum number of lengths; fewer are returned if more would save nothing.

    Returns:
      Ascending padded lengths; the last is no shorter than the longest text.
    """
    edges, counts = np.unique(round_up(lengths, multiple), return_counts=True)
    groups = min(at_most, len(edges))
    below = np.concatenate([[0], np.cumsum(counts)])
    # One group: all texts up to an edge, padded to it.
    best: Float[np.ndarray, " edges"] = edges * below[1:].astype(np.float64)
    cuts = []
    for _ in range(groups - 1):
        chosen = np.zeros(len(edges), np.int64)
        improved = best.copy()
        for j in range(1, len(edges)):
            costs = best[:j] + float(edges[j]) * (below[j + 1] - below[1 : j + 1])
            # Up to edge i as before, and a new group after it, padded to edge j.
            i = int(np.argmin(costs))
            chosen[j], improved[j] = (i, costs[i]) if costs[i] < best[j] else (-1, best[j])
        chosen[0] = -1
        cuts.append(chosen)
        best = improved
    return _walk_back(edges, cuts)


def _walk_back(edges: Int[np.ndarray, " edges"], cuts: list[Int[np.ndarray, " edges"]]) -> tuple[int, ...]:
    j, kept = len(edges) - 1, []
    kept.append(int(edges[j]))
    for chosen in reversed(cuts):
        if chosen[j] >= 0:  # -1: one group fewer is as good
            j = int(chosen[j])
            kept.append(int(edges[j]))
    return tuple(reversed(kept))


def round_up(lengths: Int[np.ndarray, " n"], multiple: int) -> Int[np.ndarray, " n"]:
    """Round each length up to a multiple, at least to one."""
    return np.maximum(-(-lengths.astype(np.int64) // multiple), 1) * multiple
