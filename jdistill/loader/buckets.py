"""Rows sorted by the padded shape that holds them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int


class Shape(NamedTuple):
    """Padded lengths of a batch in tokens, or its packed rows."""

    query: int
    """0 where the rows are plain texts."""
    document: int


class Lengths(NamedTuple):
    """Tokens of each row's texts."""

    queries: Int[np.ndarray, " n"]
    """Zeros where the rows are plain texts."""
    documents: Int[np.ndarray, "n c"]


class Buckets(NamedTuple):
    """The bucket of each row, and what a bucket is padded to."""

    of_row: Int[np.ndarray, " n"]
    shapes: Int[np.ndarray, "buckets 2"]
    """Query and document length, cheapest first."""


def make_buckets(
    queries: Int[np.ndarray, " n"], documents: Int[np.ndarray, " n"], shapes: Int[np.ndarray, "buckets 2"]
) -> Buckets:
    """Put each row into the cheapest shape that holds it.

    Args:
      queries: tokens of each row's query, `[n]`.
      documents: tokens of each row's longest document, `[n]`.
      shapes: cheapest first; the last holds every row.
    """
    of_row = np.zeros(len(queries), np.int32)
    left = np.ones(len(queries), bool)
    for bucket, (query, document) in enumerate(shapes.tolist()):
        here = left & (queries <= query) & (documents <= document)
        of_row[here] = bucket
        left &= ~here
    if left.any():
        raise ValueError("the last shape must hold every row")
    return Buckets(of_row, shapes)


def holding(shapes: Int[np.ndarray, "k 2"], wanted: Int[np.ndarray, "m 2"]) -> Bool[np.ndarray, "m k"]:
    """Which of the shapes are at least as long as what is wanted, on both sides."""
    return np.all(shapes[None, :, :] >= wanted[:, None, :], axis=-1)
