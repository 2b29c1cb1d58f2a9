import pickle

import ml_dtypes
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.store.vectors import DTYPES, to_float32, to_stored
from tests.store.conftest import Row, embed, fake_vectors

VECTORS = (
    np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * np.logspace(-6, 4, 50, dtype=np.float32)[:, None]
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_bounded_and_happens_once(dtype):
    stored = to_stored(VECTORS, dtype)
    back = to_float32(stored, dtype)
    assert back.dtype == np.float32
    error = np.abs(back - VECTORS)
    largest = np.abs(VECTORS).max(axis=1, keepdims=True)
    # Half a unit in the last place: of each number, or, for int8, of the row's largest.
    bound = {
        "float32": 0 * largest,
        "float16": np.maximum(np.abs(VECTORS) * 2.0**-11, 2.0**-25),
        "bfloat16": np.abs(VECTORS) * 2.0**-8,
        "int8": largest / 254 * (1 + 2.0**-14),
    }[dtype]
    assert (error <= bound).all()
    again = to_stored(back, dtype)
    np.testing.assert_array_equal(again.values, stored.values)
    if dtype == "int8":
        np.testing.assert_array_equal(again.scales, stored.scales)


def test_bfloat16_lies_as_its_bits():
    stored = to_stored(VECTORS, "bfloat16").values
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, VECTORS.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_int8_of_zeros_is_zeros():
    assert not to_float32(to_stored(np.zeros((2, 3), np.float32), "int8"), "int8").any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_text_has_its_own_vector(make_store, dtype):
    store = make_store(heldout=[Row("text 3", "new", ("other",), 0.0)])
    embed(store, dtype=dtype)
    vectors = store.teacher("fake")
    assert (vectors.width, vectors.dtype) == (6, dtype)
    for role in store.roles:
        rows = store.rows(role)
        for ids, side, prompt in ((rows.queries, "query", "query: "), (rows.documents, "document", "")):
            texts = [prompt + text for text in store.texts.take(ids.reshape(-1))]
            want = to_float32(to_stored(fake_vectors(texts, 6), dtype), dtype).reshape(*ids.shape, 6)
            np.testing.assert_array_equal(vectors.take(ids, side), want)


def test_vectors_travel_to_another_process_as_a_path(make_store):
    store = make_store()
    embed(store)
    vectors = store.teacher("fake")
    ids = store.rows("train").documents[:4]
    data = pickle.dumps(vectors)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).take(ids, "document"), vectors.take(ids, "document"))


def test_no_ids_give_no_vectors(make_store):
    store = make_store()
    embed(store)
    assert store.teacher("fake").take(np.zeros((0, 2), np.int32), "document").shape == (0, 2, 6)


def test_a_text_without_vector_on_that_side_is_refused(make_store):
    store = make_store([Row("q", "d")])
    embed(store)
    with pytest.raises(UserError, match=r"has no vector of text 1 as a query \(missing: 1 of 2 texts\)"):
        store.teacher("fake").take(np.array([0, 1]), "query")


def test_a_shard_of_the_wrong_size_is_refused(make_store):
    store = make_store()
    writer = embed(store)
    np.save(writer.folder / "shards" / "00000.npy", np.zeros((3, 6), np.float32))
    with pytest.raises(UserError, match=r"00000.npy: is float32 \[3, 6\], expected float32 \[4, 6\]"):
        store.teacher("fake").take(store.rows("train").queries, "query")


@pytest.mark.parametrize("routes", ["shared", "per side"])
def test_texts_from_elsewhere_are_found_by_their_words(make_store, routes):
    store = make_store([Row("a", "b"), Row("b", "c"), Row("d", "a")])
    embed(store, routes=routes, shard_rows=2)
    vectors = store.teacher("fake")
    np.testing.assert_array_equal(vectors.of(["c", "a", "c"], "document"), fake_vectors(["c", "a", "c"], 6))
    np.testing.assert_array_equal(vectors.of(["b", "a"], "query"), fake_vectors(["query: b", "query: a"], 6))
    assert vectors.of(["c"], "query") is None  # with that prompt nobody has embedded it
    assert vectors.of(["c", "x"], "document") is None
    assert vectors.of([], "query").shape == (0, 6)


def test_texts_are_looked_for_on_their_side_only_where_the_model_tells_sides_apart(make_store):
    store = make_store([Row("a", "b")])
    embed(store, "shared", prompts={"query": "", "document": ""})
    embed(store, "apart", prompts={"query": "", "document": ""}, routes="per side")
    assert store.teacher("shared").of(["b"], "query") is not None
    assert store.teacher("apart").of(["b"], "query") is None
    assert store.teacher("apart").of(["a"], "document") is None
