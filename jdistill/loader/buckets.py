"""Rows sorted by the lengths that they are padded to."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Shape(NamedTuple):
    """Padded lengths of a batch, in tokens."""

    query: int
    """0 where the rows are plain texts."""
    document: int


class Buckets(NamedTuple):
    """The bucket of each row, and what a bucket is padded to."""

    of_row: Int[np.ndarray, " n"]
    shapes: Int[np.ndarray, "buckets 2"]
    """Query and document length, in ascending order of (document, query)."""


def make_buckets(
    queries: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, " n"],
    *,
    query_lengths: tuple[int, ...],
    document_lengths: tuple[int, ...],
) -> Buckets:
    """Sort rows by the padded lengths of their query and of their longest document.

    Args:
      queries: tokens of each row's query, `[n]`.
      documents: tokens of each row's longest document, `[n]`.
      query_lengths: ascending padded lengths of queries.
      document_lengths: ascending padded lengths of documents.
    """
    query = np.searchsorted(query_lengths, queries)
    document = np.searchsorted(document_lengths, documents)
    of_row = document * len(query_lengths) + query
    shapes = [(q, d) for d in document_lengths for q in query_lengths]
    return Buckets(of_row.astype(np.int32), np.array(shapes, np.int32))
