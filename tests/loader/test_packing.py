"""Packed batches: every token once, texts whole, batches and their pieces alike, hardly a shape but one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.loader.packing import _best_fit, _filled, assign, packed_rows, places
from jdistill.loader.shapes import Shape
from tests.loader.fakes import FakeRows, make_loader

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


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=40).map(np.array))
def test_filling_row_by_row_keeps_texts_whole(lengths):
    """Where it takes as few rows as best fit, it is as good a way."""
    least = -(-int(lengths.sum()) // 40)
    row, first = _filled(lengths, 40, least)
    taken = np.zeros((int(row.max()) + 1, 40), int)
    for text in range(len(lengths)):
        taken[row[text], first[text] : first[text] + lengths[text]] += 1
    assert taken.max(initial=0) <= 1
    assert taken.sum() == lengths.sum()


def test_texts_fill_as_few_rows_as_their_tokens():
    """Rows that are 98 % full: best fit alone needs one more than must be for a sixth of these batches."""
    rng, needed, fitted = np.random.default_rng(0), [], []
    for _ in range(100):
        lengths = np.clip(np.exp(rng.normal(3.4, 0.6, 64)).astype(int), 4, 100)
        capacity = int(lengths.sum() / 0.98 / 20)
        if capacity < lengths.max():
            continue
        needed.append(packed_rows(lengths, capacity) - -(-lengths.sum() // capacity))
        fitted.append(_best_fit(lengths, capacity)[0].max() + 1 - -(-lengths.sum() // capacity))
    assert len(needed) > 50
    assert np.mean(np.array(needed) > 0) < 0.03
    assert np.mean(np.array(fitted) > 0) > 0.1


@settings(deadline=None, max_examples=20)
@given(
    n=st.integers(20, 90),
    columns=st.integers(1, 3),
    queries=st.booleans(),
    keep=st.booleans(),
    seed=st.integers(0, 3),
    pieces=st.sampled_from([1, 2, 4]),
)
def test_every_piece_of_every_batch_fits(n, columns, queries, keep, seed, pieces):
    loader = make_loader(
        n=n,
        columns=columns,
        queries=queries,
        batch=8,
        packing=64,
        last_batch="keep" if keep else "drop",
        seed=seed,
        pieces=pieces,
    )
    assert len(loader.shapes) <= 2
    steps, padded, real = loader.steps_per_epoch, 0, 0
    for step in (*range(steps), steps + 1, 4 * steps + 1):
        batch = loader.batch(step)
        for tokens in (batch.documents, batch.queries):
            if tokens is not None:
                held = np.asarray(tokens.packed).reshape(pieces, -1, 64)
                mask = np.asarray(tokens.mask).reshape(pieces, -1)
                for piece, part in zip(held, mask, strict=True):
                    np.testing.assert_array_equal(np.sort(piece[piece >= 0]), np.flatnonzero(part))
                if step < steps:
                    padded, real = padded + tokens.packed.size, real + mask.sum()
    assert loader.padding == pytest.approx(1 - real / padded)


def test_batches_hold_nearly_equal_tokens_and_epochs_differ():
    loader = make_loader(n=2000, texts=4000, batch=64, queries=False, packing=64)
    tokens = loader._tokens[loader._epochs.first.rows].sum(axis=1)
    assert tokens.std() < 0.02 * tokens.mean()
    assert loader.padding < 0.06
    first, second = loader._epochs.plan(0).rows, loader._epochs.plan(1).rows
    assert not np.array_equal(first, second)
    together = [{frozenset(row.tolist()) for row in rows} for rows in (first, second)]
    assert not together[0] & together[1]


@pytest.mark.parametrize("columns", [1, 3])
def test_batches_of_pairs_hold_nearly_equal_tokens_on_both_sides(columns):
    loader = make_loader(n=2000, texts=4000, batch=64, columns=columns, packing=64)
    lengths, rows = loader._layout._lengths, loader._epochs.first.rows
    for side in (lengths.queries, lengths.documents.sum(axis=1)):
        tokens = side[rows].sum(axis=1)
        assert tokens.std() < 0.01 * tokens.mean()


def test_a_batch_of_a_later_epoch_may_need_a_row_more():
    """Then it gets one, whatever the first epoch's batches needed: no text is lost."""
    loader = make_loader(n=200, batch=16, packing=64, pieces=2)
    usual = loader.shapes[0]
    loader._layout._shapes = [Shape(usual.query - 1, usual.document)]
    batch = loader.batch(2 * loader.steps_per_epoch)
    assert batch.queries.packed.shape == (2 * usual.query, 64)
    assert (np.asarray(batch.queries.packed) >= 0).sum() == np.asarray(batch.queries.mask).sum()


def test_a_few_full_batches_get_a_number_of_rows_of_their_own():
    """Three texts stand in so many rows that batches without duplicates end in some of very long ones."""
    rng = np.random.default_rng(0)
    documents = np.arange(400)
    documents[:24] = rng.integers(0, 3, 24)
    lengths = np.clip(np.exp(rng.normal(3, 0.5, 400)).astype(int), 3, 64)
    lengths[:3] = 64
    rows = FakeRows(None, documents[:, None].astype(np.int32))
    loader = make_loader(rows=rows, lengths=lengths, batch=16, packing=64, no_duplicates=True)
    assert 1 <= len(loader.shapes) <= 2
    assert {batch.documents.packed.shape[0] for batch in loader.stream(0, loader.steps_per_epoch)} == {
        shape.document for shape in loader.shapes
    }


def test_pieces_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"loader\.packing: a batch of 16 rows does not divide into 3 pieces"):
        make_loader(batch=16, packing=64, pieces=3)


def test_layout_is_reported():
    assert make_loader(packing=64, queries=False).layout.endswith(" rows of 64 tokens")
    assert make_loader(packing=64, pieces=4).layout.startswith("4 x ")
    assert make_loader(folding=True, queries=False).layout.startswith("two texts in lengths ")
    assert make_loader(queries=False).layout.startswith("lengths ")
