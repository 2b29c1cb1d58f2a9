"""Batches and their parts hold equally many tokens, and nothing else about them changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.loader.balance import balance_batches, balance_parts


def texts(n: int, sides: int = 1, seed: int = 0) -> np.ndarray:
    """Tokens of rows, log-normal as those of sentences are."""
    normal = np.random.default_rng(seed).normal(3.3, 0.6, (n, sides))
    return np.clip(np.exp(normal).astype(np.int64), 3, 128)


def batches(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)[: n // size * size].reshape(-1, size)


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 70), count=st.integers(1, 4), sides=st.integers(1, 2), seed=st.integers(0, 99))
def test_the_order_is_a_permutation_of_each_batch(size: int, count: int, sides: int, seed: int) -> None:
    rows = batches(size * count, size, seed)
    ordered = balance_parts(rows, texts(size * count, sides, seed))
    np.testing.assert_array_equal(np.sort(ordered, axis=1), np.sort(rows, axis=1))


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("size", "pieces"), [(64, 2), (64, 4), (64, 8), (256, 16), (96, 3), (96, 12)])
def test_any_equal_parts_are_alike(size: int, pieces: int, sides: int) -> None:
    """In sum, and in that each has long and short texts; a random order is several times as uneven."""
    rows, tokens = batches(20 * size, size), texts(20 * size, sides)
    ordered = balance_parts(rows, tokens)

    def parts(rows: np.ndarray) -> np.ndarray:
        return tokens[rows].reshape(len(rows), pieces, -1, sides)

    def apart(rows: np.ndarray) -> np.ndarray:
        return np.ptp(parts(rows).sum(axis=2), axis=1).mean(axis=0)

    assert (apart(ordered) < 0.5 * apart(rows)).all()
    each = size // pieces
    longest = np.sort(tokens[ordered].sum(axis=2), axis=1)[:, -size // 4]
    long = (parts(ordered).sum(axis=3) >= longest[:, None, None]).sum(axis=2)
    assert long.min() >= each // 4 - 2


@pytest.mark.parametrize(("size", "sides"), [(16, 1), (64, 1), (64, 2), (512, 2)])
def test_batches_become_equal_and_stay_random(size: int, sides: int) -> None:
    n = 40 * size + 3
    rows, tokens = batches(n, size), texts(n, sides)
    evened = balance_batches(rows, tokens, np.ones(n, bool))
    np.testing.assert_array_equal(np.sort(evened.ravel()), np.sort(rows.ravel()))
    sums = tokens[evened].sum(axis=1)
    assert (np.ptp(sums, axis=0) < 0.01 * sums.mean(axis=0)).all()
    assert (evened == rows).mean() > 0.8 - 4 / size


def test_rows_that_are_not_free_stay() -> None:
    rows, tokens = batches(640, 16), texts(640)
    free = np.random.default_rng(1).random(640) < 0.5
    evened = balance_batches(rows, tokens, free)
    kept = ~free[rows]
    np.testing.assert_array_equal(evened[kept], rows[kept])
    assert (evened != rows).any()


def test_one_batch_and_no_tokens_are_left_alone() -> None:
    rows = batches(16, 16)
    np.testing.assert_array_equal(balance_batches(rows, texts(16), np.ones(16, bool)), rows)
    rows = batches(32, 16)
    np.testing.assert_array_equal(balance_batches(rows, np.zeros((32, 1), np.int64), np.ones(32, bool)), rows)
