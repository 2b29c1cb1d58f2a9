"""Pairs of padded lengths with little padding, for queries and documents jointly.

Query and document lengths are correlated, so a grid of all pairs of lengths would have shapes that hardly any row
needs, and too few in between. Shapes chosen as pairs need a third less padding with the same number of programs.
"""

import numpy as np
from jaxtyping import Float, Int

from jdistill.loader.buckets import Shape
from jdistill.loader.lengths import static_lengths

_GRID = 24
"""Candidate lengths per side: more would not improve the result, and this many are fast to search."""
_ROUNDS = 20
"""Maximum number of rounds of moving each shape; a few suffice."""


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
    cost = np.where(holds, (grid @ weights).astype(np.float64)[:, None], np.inf)

    def with_one_more(shapes: list[int]) -> Float[np.ndarray, " cells"]:
        """Total padded tokens if a cell were added to these shapes, for each cell."""
        return np.minimum(cost, cost[shapes].min(axis=0)[None, :]) @ rows

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
