"""Padded lengths: as good as the best of all possible choices."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.loader.shapes import round_up, static_lengths


def cost(lengths: np.ndarray, edges: tuple[int, ...]) -> int:
    return int(np.array(edges)[np.searchsorted(edges, lengths)].sum())


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=40),
    multiple=st.sampled_from([1, 4, 8]),
    at_most=st.integers(1, 4),
)
def test_equals_brute_force(lengths: list[int], multiple: int, at_most: int) -> None:
    texts = np.array(lengths, np.int32)
    edges = static_lengths(texts, multiple=multiple, at_most=at_most)
    assert len(edges) <= at_most
    assert all(edge % multiple == 0 for edge in edges)
    assert list(edges) == sorted(set(edges))
    assert edges[-1] == round_up(texts, multiple).max()
    every = range(multiple, int(edges[-1]) + 1, multiple)
    candidates = [c for c in every if c in set(round_up(texts, multiple).tolist())]
    best = min(
        cost(texts, choice)
        for size in range(1, min(at_most, len(candidates)) + 1)
        for choice in combinations(candidates, size)
        if choice[-1] == edges[-1]
    )
    assert cost(texts, edges) == best


def test_no_length_that_saves_nothing() -> None:
    assert static_lengths(np.array([5, 6, 7]), multiple=8, at_most=4) == (8,)
    assert static_lengths(np.array([5, 6, 17]), multiple=8, at_most=4) == (8, 24)


def test_long_histogram_is_fast() -> None:
    lengths = np.random.default_rng(0).integers(1, 4096, 100_000)
    edges = static_lengths(lengths, multiple=1, at_most=6)
    assert len(edges) == 6
    np.testing.assert_allclose(np.diff([0, *edges]), 4096 / 6, rtol=0.1)  # uniform lengths are cut evenly, near enough
