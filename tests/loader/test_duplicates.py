"""Rows that wait: order, completeness, and which rows can meet at all."""

import numpy as np
import pytest

from jdistill.loader.duplicates import DeferredRows, merge, shared_texts
from jdistill.loader.shapes import Buckets


def test_only_texts_of_several_rows_are_shared() -> None:
    texts = np.array([[1, 2, 2], [3, 4, 5], [5, 6, 1], [7, 7, 7]])
    assert shared_texts(texts) == {0: (1,), 1: (5,), 2: (1, 5)}


def test_batches_leave_in_order_where_nothing_is_shared() -> None:
    waiting = DeferredRows(np.array([3, 1, 4, 2, 5]), {})
    assert [waiting.take(2) for _ in range(3)] == [[3, 1], [4, 2], [5]]
    assert len(waiting) == 0


def test_blocked_row_goes_first_in_the_next_batch() -> None:
    waiting = DeferredRows(np.array([0, 1, 2, 3]), {0: (9,), 1: (9,)})
    assert waiting.take(2) == [0, 2]
    assert len(waiting) == 2
    assert waiting.take(2) == [1, 3]


def test_rest_gives_every_row_that_waits() -> None:
    waiting = DeferredRows(np.arange(6), {0: (9,), 1: (9,), 2: (9, 8), 3: (8,)})
    assert waiting.take(2) == [0, 3]
    assert sorted(waiting.rest().tolist()) == [1, 2, 4, 5]
    assert len(waiting) == 0


def test_blocked_twice_moves_to_the_other_line() -> None:
    waiting = DeferredRows(np.array([0, 1, 2]), {0: (7,), 1: (8,), 2: (7, 8)})
    assert waiting.take(3) == [0, 1]
    assert waiting.take(3) == [2]


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [([3, 2], [4, 1]), ([3, 1], [4, 0]), ([3, 3, 1], [4, 3, 0]), ([3, 3, 2], [4, 4, 0]), ([3, 3, 3], [4, 4, 1])],
)
def test_short_batches_are_merged_into_full_ones_and_no_row_is_lost(sizes: list[int], merged: list[int]) -> None:
    """Also when the last target is filled by the first rows of the batch that is taken apart."""
    rows = iter(range(sum(sizes)))
    short = [[next(rows) for _ in range(size)] for size in sizes]
    buckets = Buckets(np.zeros(sum(sizes), np.int32), np.array([[0, 8]], np.int32))
    merge(short, [], buckets, {}, batch_rows=4)
    assert [len(batch) for batch in short] == merged
    assert sorted(row for batch in short for row in batch) == list(range(sum(sizes)))
