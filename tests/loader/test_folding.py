"""Folds: every row once, long ones with short ones, no text twice, every token once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.loader.duplicates import shared_texts
from jdistill.loader.folding import fold, folded_lengths, places
from jdistill.loader.shapes import Lengths
from tests.loader.fakes import FakeRows, make_loader


def lengths_of(n: int, columns: int = 1, queries: bool = True, seed: int = 0) -> Lengths:
    rng = np.random.default_rng(seed)
    return Lengths(rng.integers(2, 30, n) if queries else np.zeros(n, np.int64), rng.integers(2, 60, (n, columns)))


@given(
    n=st.integers(2, 60), columns=st.integers(1, 3), queries=st.booleans(), keep=st.booleans(), seed=st.integers(0, 9)
)
def test_every_row_is_in_one_fold(n: int, columns: int, queries: bool, keep: bool, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(n)
    folds = fold(lengths_of(n, columns, queries), {}, order, keep_last=keep)
    seen = Counter(folds.rows.ravel().tolist())
    if n % 2 == 0:
        assert sorted(seen.elements()) == list(range(n))
        assert folds.texts == {}
    elif keep:
        assert set(seen) == set(range(n))
        assert sorted(seen.values()) == [1] * (n - 1) + [2]
        twice = seen.most_common(1)[0][0]
        assert set(folds.texts) == set(np.flatnonzero((folds.rows == twice).any(axis=1)).tolist())
    else:
        assert sorted(seen.elements()) == sorted(order[:-1].tolist())
    assert (folds.rows[:, 0] != folds.rows[:, 1]).all()


@pytest.mark.parametrize("queries", [False, True])
def test_folds_are_nearly_equally_long_and_as_long_in_every_epoch(queries: bool) -> None:
    lengths, folds, folded = lengths_of(2000, queries=queries), [], []
    for seed in range(2):
        folds.append(fold(lengths, {}, np.random.default_rng(seed).permutation(2000), keep_last=True).rows)
        folded.append(np.stack(folded_lengths(lengths, folds[-1]), axis=1))
    sides = folded[0][:, not queries :]
    assert (sides.std(axis=0) < (0.12 if queries else 0.02) * sides.mean(axis=0)).all()
    assert Counter(map(tuple, folded[0].tolist())) == Counter(map(tuple, folded[1].tolist()))
    assert {frozenset(pair) for pair in folds[0].tolist()} != {frozenset(pair) for pair in folds[1].tolist()}


@settings(deadline=None)
@given(seed=st.integers(0, 50), n=st.integers(2, 60), texts=st.integers(30, 90))
def test_rows_of_a_fold_share_no_text(seed: int, n: int, texts: int) -> None:
    rng = np.random.default_rng(seed)
    held = rng.integers(0, texts, (n, 2))
    shared = shared_texts(held)
    try:
        folds = fold(lengths_of(n), shared, rng.permutation(n), keep_last=True)
    except UserError:
        return
    for number, (a, b) in enumerate(folds.rows.tolist()):
        assert not {*held[a].tolist()} & {*held[b].tolist()}
        assert {*shared.get(a, ()), *shared.get(b, ())} <= {*folds.texts.get(number, ())}


def test_a_text_in_most_rows_leaves_no_partners() -> None:
    documents = np.arange(40)
    documents[:25] = 0
    rows = FakeRows(None, documents[:, None].astype(np.int32))
    with pytest.raises(UserError, match=r"loader\.folding: folding pairs the rows of a batch, but a text"):
        make_loader(rows=rows, lengths=np.full(40, 5), batch=4, no_duplicates=True, folding=True)


@given(
    lengths=st.integers(1, 3).flatmap(
        lambda c: st.lists(st.lists(st.integers(0, 9), min_size=c, max_size=c), min_size=1, max_size=8)
    )
)
def test_places_hold_every_token_once(lengths: list[list[int]]) -> None:
    each = np.array(lengths + lengths)
    packed = places(each, padded=12, size=18)
    k, c = each.shape
    assert packed.shape == (k // 2 * c, 18)
    expected = np.concatenate([text * 12 + np.arange(length) for text, length in enumerate(each.ravel())])
    np.testing.assert_array_equal(np.sort(packed[packed >= 0]), expected)
    for row, held in enumerate(packed):
        fold_, column = divmod(row, c)
        texts = {(2 * fold_) * c + column, (2 * fold_ + 1) * c + column}
        assert {*(held[held >= 0] // 12).tolist()} <= texts


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("columns", [1, 3])
def test_each_piece_counts_its_own_texts(pieces: int, columns: int) -> None:
    loader = make_loader(n=99, batch=16, columns=columns, folding=True, pieces=pieces)
    padded = real = 0
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        for tokens in (batch.queries, batch.documents):
            mask = np.asarray(tokens.mask).reshape(pieces, -1)
            for piece, part in zip(np.split(np.asarray(tokens.packed), pieces), mask, strict=True):
                np.testing.assert_array_equal(np.sort(piece[piece >= 0]), np.flatnonzero(part))
            padded, real = padded + tokens.packed.size, real + mask.sum()
    assert loader.padding == pytest.approx(1 - real / padded)


def test_rows_fold_within_a_piece() -> None:
    with pytest.raises(UserError, match=r"loader\.folding: a batch of 16 rows .* into 16 pieces .* of two rows"):
        make_loader(batch=16, folding=True, pieces=16)


def test_one_layout_only() -> None:
    with pytest.raises(ValueError, match="two layouts"):
        make_loader(folding=True, packing=64)
