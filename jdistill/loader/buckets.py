"""Buckets: rows grouped by the padded shape they fit into."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int


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
