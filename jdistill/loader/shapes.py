"""Which few pairs of padded lengths waste the fewest tokens, for queries and documents together.

Long queries come with long documents more often than not, so a grid of all pairs of lengths would have shapes that
hardly a row needs, and too few in between. Shapes chosen as pairs waste a third less with as many programs.
"""

import numpy as np
from jaxtyping import Float, Int

from jdistill.loader.buckets import Shape
from jdistill.loader.lengths import static_lengths

_GRID = 24
"""Lengths per side out of which shapes are made: enough that more change nothing, few enough for a moment's work."""
_ROUNDS = 20
"""How often each shape is moved, at most; a few rounds settle."""


def static_shapes(
    queries: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, " n"],
    *,
    multiples: Shape,
    at_most: int,
    columns: int,
) -> Int[np.ndarray, "shapes 2"]:
    """Shapes for which the padded tokens are few, when each row is padded to the cheapest one that holds it.

    For plain texts they are the fewest there can be. For pairs the best choice is out of reach, and a good one is made:
    the shape that saves most is added until there are enough, then each in turn is moved to where it saves most, as
    long as that helps.

    Args:
      queries: tokens of each row's query, zeros where rows are plain texts, `[n]`.
      documents: tokens of each row's longest document, `[n]`.
      multiples: every padded length is a multiple of its side's.
      at_most: how many shapes there may be; fewer are returned where more would save nothing.
      columns: documents of a row.

    Returns:
      Query and document length of each shape, cheapest first; the last holds every row.
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
    """Numbers of the cells that become shapes. All sums are of whole numbers, so every machine finds the same."""
    filled = rows > 0
    rows = rows[filled]
    holds = (grid[:, None, :] >= grid[None, filled, :]).all(axis=-1)
    cost = np.where(holds, (grid @ weights).astype(np.float64)[:, None], np.inf)

    def with_one_more(shapes: list[int]) -> Float[np.ndarray, " cells"]:
        """Padded tokens for each cell that might join these shapes, of which one holds every row."""
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
