"""How much padding is left on texts whose lengths are spread as those of sentences are, at 64 rows a batch."""

from typing import Any

import numpy as np
import pytest

from tests.loader.fakes import FakeRows, make_loader

N = 12_800


def sentences(n: int, seed: int = 0, common: np.ndarray | None = None) -> np.ndarray:
    """Log-normal: a median of 28 tokens, a mean of 31, every fiftieth longer than 77, cut at 128."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(0, 0.5, n) if common is None else 0.8 * common + rng.normal(0, 0.3, n)
    return np.clip(np.round(np.exp(3.32 + spread)), 4, 128).astype(int)


def make(pairs: bool, batch: int, **options: Any) -> Any:
    if not pairs:
        rows, lengths = FakeRows(None, np.arange(N, dtype=np.int32)[:, None]), sentences(N)
    else:
        common = np.random.default_rng(5).normal(0, 0.5, N)
        numbers = np.arange(2 * N, dtype=np.int32)
        rows = FakeRows(numbers[:N], numbers[N:, None])
        lengths = np.concatenate([sentences(N, 1, common), sentences(N, 2, common)])
    return make_loader(rows=rows, lengths=lengths, batch=batch, **options)


@pytest.mark.parametrize("no_duplicates", [False, True])
@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_packing_leaves_five_percent(pairs: bool, no_duplicates: bool) -> None:
    loader = make(pairs, 64, packing=128, no_duplicates=no_duplicates)
    assert loader.padding < 0.05
    assert len(loader.shapes) <= 2
    steps = loader.steps_per_epoch
    later = {loader._planned(step)[1] for epoch in (1, 2) for step in range(epoch * steps, (epoch + 1) * steps, 7)}
    assert later <= {*loader.shapes}


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_folded_buckets_leave_fifteen_percent(pairs: bool) -> None:
    """One text per row leaves more, whatever the lengths."""
    folded, buckets = (make(pairs, 64, folding=folding) for folding in (True, False))
    assert len(folded.shapes) <= 6
    assert len(buckets.shapes) <= 6
    assert folded.padding < 0.15 < buckets.padding < (0.30 if pairs else 0.20)


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_large_batches_leave_hardly_any(pairs: bool) -> None:
    """What is left of 64 rows is mostly the part of a row that their tokens do not fill."""
    assert make(pairs, 512, packing=128).padding < 0.015


def test_where_a_piece_has_few_texts_folding_wastes_less() -> None:
    """As 8 devices have of a batch of 64."""
    assert make(True, 64, folding=True, pieces=8).padding < 0.15 < make(True, 64, packing=128, pieces=8).padding
