import hashlib

import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.store import Store, TeacherWriter
from tests.store.conftest import Row, description, embed, fake_vectors, pairs

SAME = {"query": "", "document": ""}


def planned(writer: TeacherWriter) -> list[str]:
    return [text.prompt + text.text for shard in range(writer.shards) for text in writer.texts(shard)]


def test_prompts_stay_on_their_side_and_texts_are_embedded_once(make_store):
    store = make_store([Row("a", "b", ("c",)), Row("b", "a", ("c",)), Row("a", "b", ("c",))])
    writer = TeacherWriter(store, "t", description(prompts={"query": "q: ", "document": "d: "}), shard_rows=2)
    assert planned(writer) == ["q: a", "q: b", "d: a", "d: b", "d: c"]
    assert [text.side for text in writer.texts(0)] == ["query", "query"]
    assert (writer.rows, writer.shards, writer.size(2)) == (5, 3, 1)


def test_equal_prompts_share_vectors_and_serve_both_sides(make_store):
    store = make_store([Row("a", "b"), Row("b", "c")])
    writer = embed(store, prompts={"query": "p ", "document": "p "})
    assert planned(writer) == ["p a", "p b", "p c"]
    ids = np.arange(3)
    np.testing.assert_array_equal(store.teacher("fake").take(ids, "query"), store.teacher("fake").take(ids, "document"))


def test_a_model_with_two_routes_shares_nothing(make_store):
    writer = TeacherWriter(
        make_store([Row("a", "b"), Row("b", "c")]), "t", description(prompts=SAME, routes="per side")
    )
    assert planned(writer) == ["a", "b", "b", "c"]


def test_equal_prompted_texts_share_a_vector_however_they_are_split(make_store):
    store = make_store([Row("b", "ab")])
    writer = embed(store, prompts={"query": "a", "document": ""})
    assert planned(writer) == ["ab"]
    rows = store.rows("train")
    vectors = store.teacher("fake")
    np.testing.assert_array_equal(vectors.take(rows.queries, "query"), vectors.take(rows.documents[:, 0], "document"))


def test_keys_are_hashes_of_prompted_texts(make_store):
    writer = embed(make_store())
    keys = np.load(writer.folder / "keys.npy")
    assert [key.tobytes() for key in keys] == [hashlib.sha256(text.encode()).digest()[:16] for text in planned(writer)]


def test_manifest_names_teacher_widths_counts_and_hashes(make_store):
    writer = embed(make_store(), dtype="int8")
    manifest = Store.open(writer.store.path).teacher("fake").manifest
    assert manifest["description"] == description(dtype="int8")
    assert sum(shard["rows"] for shard in manifest["hashes"]) == manifest["rows"] == writer.rows
    digest = hashlib.sha256((writer.folder / "shards" / "00001.scales.npy").read_bytes()).hexdigest()
    assert manifest["hashes"][1]["files"]["scales"] == digest


def test_an_unfinished_teacher_is_not_served(make_store):
    store = make_store()
    writer = TeacherWriter(store, "half", description(), shard_rows=4)
    writer.write(0, fake_vectors(["x"] * 4, 6) + np.arange(4, dtype=np.float32)[:, None])
    assert not writer.finish()
    assert store.teachers == ()
    with pytest.raises(UserError, match=rf"teacher 'half' is incomplete: 1 of {writer.shards} shards"):
        store.teacher("half")


def test_an_unknown_teacher_is_guessed(make_store):
    store = make_store()
    embed(store, "minilm")
    assert store.teachers == ("minilm",)
    with pytest.raises(UserError, match=r"has no teacher 'minilmm'. It has: minilm. Did you mean 'minilm'\?"):
        store.teacher("minilmm")


def test_going_on_with_another_teacher_is_refused(make_store):
    store = make_store()
    TeacherWriter(store, "t", description())
    with pytest.raises(
        UserError, match=r'prompts.query is "query: " in the store and "" now; max_length is 16 in the store and 32 now'
    ):
        TeacherWriter(store, "t", description(max_length=32, prompts=SAME))
    with pytest.raises(UserError, match=r"width is 6 in the store and 7 now"):
        TeacherWriter(store, "t", description(width=7))


def test_going_on_keeps_the_size_of_shards(make_store):
    store = make_store()
    TeacherWriter(store, "t", description(), shard_rows=5)
    assert TeacherWriter(store, "t", description(), shard_rows=50).size(0) == 5


def test_vectors_of_other_texts_are_refused(make_store, tmp_path):
    embed(make_store())
    (tmp_path / "store" / "manifest.json").unlink()
    other = make_store(pairs(3))
    with pytest.raises(UserError, match=r"'fake' belong to a different set of texts. Move"):
        other.teacher("fake")
    with pytest.raises(UserError, match=r"belong to a different set of texts"):
        embed(other)


@pytest.mark.parametrize(
    ("broken", "dtype", "message"),
    [
        (np.nan, "float32", "the vector of the query 'query: text 1' is NaN or infinite"),
        (np.inf, "int8", "the vector of the query 'query: text 1' is NaN or infinite"),
        (1e6, "float16", "the vector of the query 'query: text 1' is NaN or infinite .* dtype: float32"),
        (0.0, "float32", "the vector of the query 'query: text 1' is all zeros"),
    ],
)
def test_broken_vectors_name_their_text(make_store, broken, dtype, message):
    writer = TeacherWriter(make_store(), "t", description(dtype=dtype), shard_rows=4)
    vectors = fake_vectors(["a", "b", "c", "d"], 6)
    row = writer.store.texts.take(writer._texts[:4]).index("text 1")
    vectors[row] = broken
    with pytest.raises(UserError, match=message):
        writer.write(0, vectors)
    assert 0 in writer.missing()


def test_a_changed_width_and_a_collapsed_teacher_are_refused(make_store):
    writer = TeacherWriter(make_store(pairs(40)), "t", description(), shard_rows=20)
    with pytest.raises(UserError, match=r"returned vectors \[20, 5\], expected \[20, 6\] for shard 0"):
        writer.write(0, np.ones((20, 5), np.float32))
    with pytest.raises(UserError, match=r"the same vector for all 20 texts"):
        writer.write(0, np.ones((20, 6), np.float32))


def test_names_and_dtypes_are_checked(make_store):
    with pytest.raises(UserError, match=r"teacher '../x': expected letters"):
        TeacherWriter(make_store(), "../x", description())
    with pytest.raises(UserError, match=r"dtype is 'float8', expected one of float32"):
        TeacherWriter(make_store(), "x", description(dtype="float8"))
