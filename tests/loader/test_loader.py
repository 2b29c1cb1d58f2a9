"""The loader's promises: pure in the step, every row once, no duplicates, static shapes."""

import json
import time
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.loader import LoaderConfig
from tests.loader.fakes import FakeRows, FakeTeacher, FakeTokens, make_loader

LAYOUTS: list[dict[str, Any]] = [{}, {"folding": True}, {"packing": 64}]


def rows_of(loader: Any, epoch: int) -> np.ndarray:
    return loader._epochs.plan(epoch).rows


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(8, 150),
    batch=st.integers(1, 4).map(lambda half: 2 * half),
    shapes=st.integers(1, 7),
    layout=st.sampled_from([{}, {"folding": True}, {"packing": 48}]),
    keep=st.booleans(),
    no_duplicates=st.booleans(),
    queries=st.booleans(),
    epoch=st.integers(0, 3),
    seed=st.integers(-5, 5),
)
def test_epoch_sees_every_row_once(
    n: int,
    batch: int,
    shapes: int,
    layout: dict[str, Any],
    keep: bool,
    no_duplicates: bool,
    queries: bool,
    epoch: int,
    seed: int,
) -> None:
    try:
        loader = make_loader(
            n=n,
            texts=1000,
            batch=batch,
            seed=seed,
            queries=queries,
            shapes=shapes,
            last_batch="keep" if keep else "drop",
            no_duplicates=no_duplicates,
            **layout,
        )
    except UserError:
        assert no_duplicates
        assume(False)
    rows = rows_of(loader, epoch)
    assert rows.shape == (loader.steps_per_epoch, batch)
    assert all(len(set(r)) == batch for r in rows.tolist()), "a row stands twice in one batch"
    seen = Counter(rows.ravel().tolist())
    if keep:
        assert set(seen) == set(range(n))
    else:
        assert max(seen.values()) == 1
    if no_duplicates:
        assert_no_duplicates(loader, epoch)
    else:
        assert loader.steps_per_epoch == (-(-n // batch) if keep else n // batch)
    if "packing" not in layout:  # tests/loader/test_packing.py has its shapes
        assert len(loader.shapes) <= shapes
        assert {tuple(s) for s in loader._epochs.plan(epoch).shapes.tolist()} <= {tuple(s) for s in loader.shapes}


def test_epochs_differ_and_are_reproducible() -> None:
    one, two = make_loader(), make_loader()
    for epoch in (0, 1, 5, 0, 3, 1):
        np.testing.assert_array_equal(rows_of(one, epoch), rows_of(two, epoch))
    assert not np.array_equal(rows_of(one, 0), rows_of(one, 1))
    assert not np.array_equal(rows_of(one, 0), rows_of(make_loader(seed=1), 0))


def test_order_is_fixed_for_ever() -> None:
    """A golden: a run resumed under another release of NumPy or of ours must see the same rows."""
    assert rows_of(make_loader(n=20, batch=4, longest=8), 1)[0].tolist() == GOLDEN


GOLDEN = [5, 0, 10, 16]


def test_batch_is_a_function_of_its_step() -> None:
    loader, other = make_loader(scores=2, columns=2), make_loader(scores=2, columns=2)
    for step in (30, 2, 11, 2):
        same(loader.batch(step), other.batch(step))


def test_batch_holds_what_the_store_holds() -> None:
    loader = make_loader(n=60, columns=3, scores=3, batch=8)
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        n, c, length = batch.documents.ids.shape
        assert (n, c) == (8, 3)
        assert (batch.queries.ids.shape[1], length) in loader.shapes
        assert batch.documents.mask.dtype == bool
        assert batch.documents.ids.dtype == np.int32
        np.testing.assert_array_equal(batch.documents.ids.max(-1), batch.document_ids % 50)
        np.testing.assert_array_equal(batch.queries.ids.max(-1), batch.query_ids % 50)
        teacher = loader._teachers["big"]
        np.testing.assert_array_equal(batch.targets["big"].documents, teacher.take(batch.document_ids, "document"))
        np.testing.assert_array_equal(batch.targets["big"].queries, teacher.take(batch.query_ids, "query"))
        rows = rows_of(loader, 0)[step]
        assert batch.scores.shape == (8, 3)
        np.testing.assert_array_equal(batch.scores, loader._rows.scores[rows])
        np.testing.assert_array_equal(batch.document_ids, loader._rows.documents[rows])


def test_labels_go_with_their_rows_and_are_part_of_what_a_loader_is() -> None:
    texts = np.arange(40, dtype=np.int32)[:, None]
    labels = np.arange(40, dtype=np.int32) % 3
    loader = make_loader(rows=FakeRows(None, texts, labels=labels), batch=8)
    batch = loader.batch(1)
    assert batch.labels.dtype == np.int32
    np.testing.assert_array_equal(batch.labels, batch.document_ids[:, 0] % 3)
    halves = [loader.batch(1, (host, 2)).labels for host in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), batch.labels)
    others = [FakeRows(None, texts), FakeRows(None, texts, labels=labels[::-1])]
    assert len({loader.fingerprint, *(make_loader(rows=rows, batch=8).fingerprint for rows in others)}) == 3


def test_plain_texts_have_no_queries() -> None:
    batch = make_loader(queries=False).batch(0)
    assert batch.queries is None
    assert batch.query_ids is None
    assert batch.targets["big"].queries is None
    assert batch.scores is None


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(hosts: int, layout: dict[str, Any]) -> None:
    """Packed rows too: each host gets those of its own pieces."""
    loader = make_loader(scores=1, columns=2, pieces=8 if layout else 1, **layout)
    assert loader.pieces == (8 if layout else None)
    parts = [loader.batch(3, (index, hosts)) for index in range(hosts)]
    same(jax.tree.map(lambda *x: np.concatenate(x), *parts), loader.batch(3))
    with pytest.raises(ValueError, match="cannot be shared evenly"):
        loader.batch(0, (0, 3))


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_hosts_share_whole_pieces(layout: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="2 pieces cannot be shared evenly"):
        make_loader(pieces=2, **layout).batch(0, (0, 4))


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_batches_do_not_depend_on_pieces(layout: dict[str, Any]) -> None:
    """A run may go on over another number of devices."""
    loaders = [make_loader(n=500, batch=32, columns=2, pieces=pieces, **layout) for pieces in (1, 2, 8)]
    assert len({loader.fingerprint for loader in loaders}) == 1
    for step in (0, loaders[0].steps_per_epoch, 3 * loaders[0].steps_per_epoch + 1):
        one, *others = (loader.batch(step) for loader in loaders)
        for other in others:
            np.testing.assert_array_equal(one.document_ids, other.document_ids)
            np.testing.assert_array_equal(one.queries.ids, other.queries.ids)


def test_a_host_reads_tokens_and_vectors_of_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[int] = set()
    pad, take = FakeTokens.pad, FakeTeacher.take

    def noted_pad(self: FakeTokens, ids: np.ndarray, length: int) -> Any:
        read.update(ids.ravel().tolist())
        return pad(self, ids, length)

    def noted_take(self: FakeTeacher, ids: np.ndarray, side: Any) -> Any:
        read.update(ids.ravel().tolist())
        return take(self, ids, side)

    monkeypatch.setattr(FakeTokens, "pad", noted_pad)
    monkeypatch.setattr(FakeTeacher, "take", noted_take)
    loader = make_loader(columns=2, prefetch=0)
    for batches in (loader.stream(0, 3, (1, 4)), loader.examples(0, 3, (1, 4))):
        own: set[int] = set()
        read.clear()
        for batch in batches:
            assert len(batch.document_ids) == loader.global_batch_size // 4
            own |= {*np.ravel(batch.query_ids).tolist(), *np.ravel(batch.document_ids).tolist()}
        assert read == own


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_stream_is_ordered_and_resumes_anywhere(prefetch: int) -> None:
    import threading

    loader = make_loader(prefetch=prefetch)
    stop = 2 * loader.steps_per_epoch + 3
    for start in (0, 5, stop - 1, stop):
        batches = list(loader.stream(start, stop))
        assert len(batches) == stop - start
        for step, batch in enumerate(batches, start):
            same(batch, loader.batch(step))
    before = threading.active_count()
    left = loader.stream(0, 10_000)
    next(left)
    left.close()
    time.sleep(0.05)
    assert threading.active_count() <= before, "an abandoned stream keeps threads"


def test_padding_is_what_batches_hold() -> None:
    loader = make_loader(columns=2, n=90)
    real = total = 0
    for step in range(loader.steps_per_epoch):
        masks = [loader.batch(step).queries.mask, loader.batch(step).documents.mask]
        real_here, total_here = sum(int(m.sum()) for m in masks), sum(m.size for m in masks)
        assert loader.batch_padding(step) == pytest.approx(1 - real_here / total_here)
        real, total = real + real_here, total + total_here
    assert loader.padding == pytest.approx(1 - real / total)


def test_buckets_waste_less() -> None:
    options: dict[str, Any] = {"n": 2000, "batch": 16, "longest": 64}
    one, many, folded = (make_loader(**layout, **options) for layout in ({"shapes": 1}, {}, {"folding": True}))
    assert len(one.shapes) == 1
    assert len(many.shapes) <= 6
    assert many.padding < 0.6 * one.padding
    assert folded.padding < 0.6 * many.padding


def assert_no_duplicates(loader: Any, epoch: int) -> None:
    rows = loader._rows
    texts = rows.documents if rows.queries is None else np.column_stack([rows.queries, rows.documents])
    for batch in rows_of(loader, epoch):
        held = [set(texts[row].tolist()) for row in batch]
        assert sum(len(h) for h in held) == len(set().union(*held)), "a text stands in two rows"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("keep", ["keep", "drop"])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_no_text_stands_in_two_rows(layout: dict[str, Any], keep: str, epoch: int) -> None:
    loader = make_loader(n=301, texts=250, batch=16, no_duplicates=True, last_batch=keep, **layout)
    assert_no_duplicates(loader, epoch)
    with pytest.raises(AssertionError):
        assert_no_duplicates(make_loader(n=300, texts=250, batch=16), epoch)


def test_frequent_text_gets_a_batch_for_each_of_its_rows() -> None:
    """One document in 30 of 100 rows: 30 batches at least, and each is filled up."""
    documents = np.arange(100)
    documents[:30] = 0
    loader = make_loader(
        rows=FakeRows(None, documents[:, None].astype(np.int32)), lengths=np.full(100, 5), batch=5, no_duplicates=True
    )
    assert loader.steps_per_epoch == 30
    for epoch in range(3):
        assert_no_duplicates(loader, epoch)
        assert set(rows_of(loader, epoch).ravel().tolist()) == set(range(100))


def test_hopeless_duplicates_are_refused() -> None:
    documents = np.arange(100)
    documents[:90] = 0
    rows = FakeRows(None, documents[:, None].astype(np.int32))
    with pytest.raises(UserError, match="Most are repeats"):
        make_loader(rows=rows, lengths=np.full(100, 5), batch=10, no_duplicates=True)
    alike = FakeRows(None, np.zeros((100, 1), np.int32))
    with pytest.raises(UserError, match="no_duplicates"):
        make_loader(rows=alike, lengths=np.full(100, 5), batch=10, no_duplicates=True)
    with pytest.raises(UserError, match="no batch can be filled"):
        make_loader(rows=alike, lengths=np.full(100, 5), batch=10, no_duplicates=True, last_batch="drop")


@pytest.mark.parametrize(("batch", "layout"), [(64, {}), (8192, {}), (64, {"folding": True}), (64, {"packing": 64})])
def test_many_duplicates_are_planned_in_seconds(batch: int, layout: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    n = 100_000
    queries = rng.integers(0, 30_000, n)  # every query three times
    documents = np.where(rng.random(n) < 0.3, rng.integers(30_000, 31_000 + 20 * batch, n), rng.integers(0, 10**6, n))
    rows = FakeRows(queries.astype(np.int32), documents[:, None].astype(np.int32))
    lengths = np.full(10**6, 12)
    began = time.process_time()
    loader = make_loader(rows=rows, lengths=lengths, batch=batch, no_duplicates=True, **layout)
    assert time.process_time() - began < 8
    assert loader.steps_per_epoch <= -(-n // batch) + 1
    assert_no_duplicates(loader, 0)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UserError, match=r"only 10 rows to train on\. Use at most 10"):
        make_loader(n=10, batch=16)
    with pytest.raises(UserError, match="no rows"):
        make_loader(n=0, batch=16)


def test_fingerprint_tells_loaders_apart() -> None:
    base = make_loader().fingerprint
    assert make_loader(prefetch=7).fingerprint == base
    for change in (
        {"seed": 1},
        {"n": 99},
        {"batch": 8},
        {"no_duplicates": True},
        {"longest": 30},
        {"prompts": {"query": 3}},
    ):
        assert make_loader(**change).fingerprint != base, change


def test_config_round_trips() -> None:
    config = LoaderConfig(no_duplicates=True)
    assert LoaderConfig.model_validate(json.loads(config.model_dump_json())) == config
    assert all(field.description for field in LoaderConfig.model_fields.values())


def test_examples_are_the_first_batch_of_each_shape() -> None:
    loader = make_loader(shapes=4)
    for start in (0, 2):
        first: dict[Any, int] = {}
        for step in range(start, loader.steps_per_epoch):
            batch = loader.batch(step)
            first.setdefault(tuple(x.shape for x in jax.tree.leaves(batch)), step)
        examples = list(loader.examples(start, loader.steps_per_epoch))
        assert len(examples) == len(first) > 1
        for example, step in zip(examples, sorted(first.values()), strict=True):
            same(example, loader.batch(step))
