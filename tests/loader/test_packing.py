"""Packed batches: every token once, texts whole, batches alike, one shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.loader.packing import assign, packed_rows, places
from tests.loader.fakes import make_loader

lengths_of_texts = st.lists(st.integers(0, 16), min_size=1, max_size=60).map(np.array)


@given(lengths=lengths_of_texts, capacity=st.integers(16, 50))
def test_texts_are_whole_and_do_not_overlap(lengths, capacity):
    row, first = assign(lengths, capacity)
    taken = np.zeros((int(row.max()) + 1, capacity), int)
    for text in range(len(lengths)):
        assert first[text] + lengths[text] <= capacity
        taken[row[text], first[text] : first[text] + lengths[text]] += 1
    assert taken.max(initial=0) <= 1
    assert taken.sum() == lengths.sum()


@given(lengths=lengths_of_texts, capacity=st.integers(16, 50))
def test_no_two_rows_would_fit_into_one(lengths, capacity):
    """What first fit and best fit promise, and why they need less than twice the rows there must be."""
    row, _ = assign(lengths, capacity)
    full = np.sort(np.bincount(row, weights=lengths))
    if len(full) > 1:
        assert full[0] + full[1] > capacity


@given(lengths=lengths_of_texts)
def test_places_hold_every_token_once(lengths):
    packed = places(lengths, padded=20, rows=packed_rows(lengths, 24) + 1, capacity=24)
    held = np.sort(packed[packed >= 0])
    expected = np.concatenate([text * 20 + np.arange(length) for text, length in enumerate(lengths)])
    np.testing.assert_array_equal(held, expected)


def test_a_text_longer_than_a_row_is_refused():
    with pytest.raises(UserError, match=r"loader\.packing=8: a text has 9 tokens"):
        assign(np.array([3, 9]), 8)


@settings(deadline=None, max_examples=20)
@given(
    n=st.integers(20, 90), columns=st.integers(1, 3), queries=st.booleans(), keep=st.booleans(), seed=st.integers(0, 3)
)
def test_epochs_are_whole_and_of_one_shape(n, columns, queries, keep, seed):
    loader = make_loader(
        n=n, columns=columns, queries=queries, batch=8, packing=64, last_batch="keep" if keep else "drop", seed=seed
    )
    assert len(loader.shapes) == 1
    for epoch in (0, 1, 4):
        rows = loader._epochs.plan(epoch).rows
        assert rows.shape == (-(-n // 8) if keep else n // 8, 8)
        counts = np.bincount(rows.ravel(), minlength=n)
        assert (counts >= 1).all() if keep else (counts <= 1).all()
    batch = loader.batch(loader.steps_per_epoch + 1)
    for tokens in (batch.documents, batch.queries):
        if tokens is not None:
            held = np.asarray(tokens.packed)
            real = np.flatnonzero(np.asarray(tokens.mask).reshape(-1))
            np.testing.assert_array_equal(np.sort(held[held >= 0]), real)


def test_batches_hold_nearly_equal_tokens_and_epochs_differ():
    loader = make_loader(n=2000, texts=4000, batch=64, queries=False, packing=64)
    tokens = loader._tokens[loader._epochs.first.rows].sum(axis=1)
    assert tokens.std() < 0.02 * tokens.mean()
    assert loader.padding < 0.06
    first, second = loader._epochs.plan(0).rows, loader._epochs.plan(1).rows
    assert not np.array_equal(first, second)
    together = [{frozenset(row.tolist()) for row in rows} for rows in (first, second)]
    assert not together[0] & together[1]


def test_packing_excludes_no_duplicates():
    with pytest.raises(UserError, match="does not go together"):
        make_loader(packing=64, no_duplicates=True)
