"""Padded lengths with the least padding: exact, by dynamic programming over the length histogram."""

import numpy as np
from jaxtyping import Float, Int


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
    best: Float[np.ndarray, " edges"] = edges * below[1:].astype(np.float64)
    cuts = []
    for _ in range(groups - 1):
        chosen = np.zeros(len(edges), np.int64)
        improved = best.copy()
        for j in range(1, len(edges)):
            costs = best[:j] + float(edges[j]) * (below[j + 1] - below[1 : j + 1])
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
