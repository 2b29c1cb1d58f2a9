"""Top-k columns of each row of a score matrix, without materializing the matrix."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jdistill.unit_length import unit_length


def best_columns(
    queries: Float[np.ndarray, "q d"],
    corpus: Iterable[Float[np.ndarray, "m d"]],
    *,
    top: int,
    similarity: Literal["cosine", "dot"] = "cosine",
    exclude: Int[np.ndarray, " q"] | None = None,
) -> Int[np.ndarray, "q k"]:
    """Columns of the best documents of each query, best first; ties, such as equal vectors, go to the lower column.

    Processes the corpus in chunks and keeps only `top` candidates per query, so memory is O(q * (chunk + top)).

    Args:
      queries: float32, `[q, d]`.
      corpus: chunks `[m, d]` of the document vectors, in the order of the columns; at least one.
      top: number of documents to keep.
      similarity: cosine or dot product.
      exclude: column to exclude for each query, `[q]`; -1 for none.

    Returns:
      `[q, k]` with `k = min(top, documents)`; padded with -1 where the exclusion leaves fewer than `k`.
    """
    queries = unit_length(queries) if similarity == "cosine" else queries
    columns = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), queries.dtype)
    start = 0
    for chunk in corpus:
        fresh = queries @ (unit_length(chunk) if similarity == "cosine" else chunk).T
        # A matrix product may round equal columns differently, depending on their position (OpenBLAS on Haswell).
        fresh = fresh[:, _first_equal(chunk)]
        if exclude is not None:
            rows = np.flatnonzero((exclude >= start) & (exclude < start + len(chunk)))
            fresh[rows, exclude[rows] - start] = -np.inf
        new_columns = np.broadcast_to(np.arange(start, start + len(chunk)), fresh.shape)
        # Earlier columns come first, so that ties go to the lower column.
        scores = np.concatenate([scores, fresh], axis=1)
        best = first_best(scores, top)
        columns = np.take_along_axis(np.concatenate([columns, new_columns], axis=1), best, axis=1)
        scores = np.take_along_axis(scores, best, axis=1)
        start += len(chunk)
    return np.where(np.isneginf(scores), -1, columns)


def _first_equal(vectors: Float[np.ndarray, "m d"]) -> Int[np.ndarray, " m"]:
    """For each vector, the index of the first bit-identical one."""
    places: dict[bytes, int] = {}
    return np.asarray([places.setdefault(vector.tobytes(), i) for i, vector in enumerate(vectors)], np.int64)


def first_best(scores: Float[np.ndarray, "q m"], top: int) -> Int[np.ndarray, "q k"]:
    """Positions of the `min(top, m)` highest scores of each row, best first; ties go to the lower position."""
    top = min(top, scores.shape[1])
    # The lowest score that is kept. Of the scores equal to it, the first ones fill the remaining room.
    threshold = -np.partition(-scores, top - 1, axis=1)[:, top - 1 : top]
    above, equal = scores > threshold, scores == threshold
    room = top - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    # Ascending in each row, so that the stable sort leaves ties in order.
    positions = np.nonzero(chosen)[1].reshape(len(scores), top)
    order = np.argsort(-np.take_along_axis(scores, positions, axis=1), axis=1, kind="stable")
    return np.take_along_axis(positions, order, axis=1)
