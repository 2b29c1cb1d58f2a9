"""Padded shapes: exact for plain texts, close to the best of all choices for pairs, and every row fits one."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.loader.shapes import Shape, make_buckets, static_lengths, static_shapes


def cost(queries: np.ndarray, documents: np.ndarray, shapes: np.ndarray, columns: int) -> int:
    buckets = make_buckets(queries, documents, shapes)
    return int((buckets.shapes[buckets.of_row] @ np.array([1, columns])).sum())


rows = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=25).map(np.array)


@settings(deadline=None, max_examples=60)
@given(rows=rows, at_most=st.integers(1, 3), columns=st.integers(1, 3))
def test_close_to_the_best_of_all_choices(rows: np.ndarray, at_most: int, columns: int) -> None:
    queries, documents = rows.T
    shapes = static_shapes(queries, documents, multiples=Shape(8, 4), at_most=at_most, columns=columns)
    assert len(shapes) <= at_most
    assert (shapes % [8, 4] == 0).all()
    every = [(q, d) for q in range(8, 33, 8) for d in range(4, 33, 4)]
    weights = np.array([1, columns])
    price = np.array([[p @ weights if (p >= row).all() else np.inf for row in rows] for p in np.array(every)])
    largest = every.index((-(-queries.max() // 8) * 8, -(-documents.max() // 4) * 4))
    others = [i for i in range(len(every)) if i != largest]
    best = min(
        price[[largest, *choice]].min(axis=0).sum() for size in range(at_most) for choice in combinations(others, size)
    )
    assert best <= cost(queries, documents, shapes, columns) <= 1.1 * best


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=40).map(np.array), at_most=st.integers(1, 4))
def test_plain_texts_get_the_best_lengths(lengths: np.ndarray, at_most: int) -> None:
    shapes = static_shapes(np.zeros_like(lengths), lengths, multiples=Shape(8, 4), at_most=at_most, columns=1)
    assert [d for _, d in shapes.tolist()] == [*static_lengths(lengths, multiple=4, at_most=at_most)]
    assert not shapes[:, 0].any()


@pytest.mark.parametrize("columns", [1, 4])
def test_pairs_waste_less_than_a_grid_of_as_many(columns: int) -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(3.4, 0.4, 20_000)
    queries, documents = (np.clip(np.exp(common + rng.normal(0, 0.3, 20_000)), 4, 128).astype(int) for _ in range(2))
    shapes = static_shapes(queries, documents, multiples=Shape(8, 8), at_most=6, columns=columns)
    grid = [
        (q, d)
        for d in static_lengths(documents, multiple=8, at_most=3)
        for q in static_lengths(queries, multiple=8, at_most=2)
    ]
    ascending = np.array(sorted(grid, key=lambda shape: shape[0] + columns * shape[1]))
    real = (queries + columns * documents).sum()
    waste = [1 - real / cost(queries, documents, each, columns) for each in (shapes, ascending)]
    assert waste[0] < 0.8 * waste[1]


def test_no_shape_that_saves_nothing() -> None:
    shapes = static_shapes(np.array([5, 6]), np.array([9, 10]), multiples=Shape(8, 8), at_most=5, columns=1)
    assert shapes.tolist() == [[8, 16]]


def test_a_row_that_no_shape_holds_is_a_bug() -> None:
    with pytest.raises(ValueError, match="last shape"):
        make_buckets(np.array([3]), np.array([9]), np.array([[8, 8]]))
