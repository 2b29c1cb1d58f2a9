import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.store import TeacherWriter, VectorColumns, from_dataset, to_dataset, verify
from jdistill.store.vectors import DTYPES
from tests.store.conftest import Row, description, embed, pairs

datasets = pytest.importorskip("datasets")


def same_vectors(one, other, name="fake"):
    """Bit by bit: every stored vector of every row."""
    a, b = one.teacher(name), other.teacher(name)
    rows = one.rows("train")
    sides = [(rows.documents, "document")] + ([] if rows.queries is None else [(rows.queries, "query")])
    return all((a.take(ids, side) == b.take(ids, side)).all() for ids, side in sides)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_and_in_again_changes_nothing(make_store, tmp_path, dtype):
    store = make_store()
    embed(store, dtype=dtype)
    dataset = to_dataset(store, "train", "fake")
    dataset.save_to_disk(tmp_path / "shared")
    again = from_dataset(datasets.load_from_disk(tmp_path / "shared"), None, tmp_path / "b", None, teacher="fake")
    assert list(again.texts) == list(store.texts)
    for one, other in zip(store.rows("train"), again.rows("train"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert same_vectors(store, again)
    assert again.teacher("fake").manifest == store.teacher("fake").manifest | {
        "shard_rows": 8192,
        "shards": 1,
        "hashes": again.teacher("fake").manifest["hashes"],
        "origin": "a data set",
    }
    for file in ("texts/values.npy", "rows/train/documents.npy", "teachers/fake/keys.npy"):
        assert (store.path / file).read_bytes() == (again.path / file).read_bytes()
    assert verify(again) == []


def test_what_was_imported_says_so_and_is_not_mixed_with_what_a_model_gave(make_store, tmp_path):
    store = make_store()
    embed(store)
    dataset = to_dataset(store, "train", "fake")
    assert store.teacher("fake").origin is None
    again = from_dataset(dataset, None, tmp_path / "b", None, teacher="fake")
    assert again.teacher("fake").origin == "a data set"
    from_dataset(dataset, None, tmp_path / "b", None, teacher="fake")  # it is whole: nothing to do
    TeacherWriter(again, "begun", description())
    with pytest.raises(
        UserError, match=r"'begun' was started with vectors of a model, but these are of a data set\. Move"
    ):
        from_dataset(dataset, None, tmp_path / "b", None, teacher="begun")


def test_columns_are_texts_scores_and_fixed_length_vectors(make_store):
    store = make_store()
    embed(store, dtype="float16")
    dataset = to_dataset(store, "train", "fake")
    assert dataset.column_names == [
        *("query", "document", "negative_1", "score"),
        *("query_embedding", "document_embedding", "negative_1_embedding"),
    ]
    assert [dataset[3][key] for key in ("query", "document", "negative_1", "score")] == list(
        (row := pairs(20)[3])[:2] + row.negatives + (row.score,)
    )
    assert dataset.features["document_embedding"].length == 6
    assert dataset.features["document_embedding"].feature.dtype == "float16"
    want = store.teacher("fake").take(store.rows("train").queries[3:4], "query")[0]
    np.testing.assert_array_equal(np.float32(dataset[3]["query_embedding"]), want)


@pytest.mark.parametrize("scores", [(1.0, 0.5, -float("inf")), (0.25, -1.0)])
def test_lists_of_scores_come_back(make_store, tmp_path, scores):
    store = make_store([Row("q", "d", ("m", "n"), scores), Row("q", "e", ("m", "n"), scores[::-1])])
    embed(store)
    dataset = to_dataset(store, "train", "fake")
    assert dataset[0]["score"] == list(scores)
    dataset.save_to_disk(tmp_path / "shared")
    again = from_dataset(datasets.load_from_disk(tmp_path / "shared"), None, tmp_path / "b", None, teacher="fake")
    np.testing.assert_array_equal(again.rows("train").scores, store.rows("train").scores)


INF = float("inf")


@pytest.mark.parametrize(
    "score",
    [
        *([0.5, None], [0.5, float("nan")], ["a", "b"], [[1.0], []]),
        *([0.5, INF], [0.5, -INF], [0.5, 1e300], [[0.5, 1.0], [INF, 1.0]], [[0.5, 1.0], [-INF, -INF]]),
    ],
)
def test_scores_that_are_no_numbers_are_refused(tmp_path, score):
    columns = OWN.model_copy(update={"score": "s"})
    with pytest.raises(UserError, match=r"data set, row [12], column 's': is .*, expected a number"):
        from_dataset(own(s=score), columns, tmp_path / "s", {}, teacher="x")


def test_labels_come_back(make_store, tmp_path):
    store = make_store([Row("q", "d", label="no"), Row("q", "e", label="maybe")])
    embed(store)
    dataset = to_dataset(store, "train", "fake")
    assert dataset["label"][:] == ["no", "maybe"]
    again = from_dataset(dataset, None, tmp_path / "b", None, teacher="fake")
    assert again.labels == ("maybe", "no")
    np.testing.assert_array_equal(again.rows("train").labels, [1, 0])


def test_whole_numbers_of_a_data_set_are_labels_and_others_are_not(tmp_path):
    columns = OWN.model_copy(update={"label": "l"})
    assert from_dataset(own(l=[10, 9]), columns, tmp_path / "s", {}, teacher="x").labels == ("9", "10")
    for wrong in (["a", None], ["a", ""], ["a", " "], ["a", "\u200b"], ["a", "b\0"], [0.0, 1.0]):
        with pytest.raises(UserError, match=r"data set, row [12], column 'l': is .*, expected a label"):
            from_dataset(own(l=wrong), columns, tmp_path / "w", {}, teacher="x")


def test_plain_texts(make_store, tmp_path):
    store = make_store([Row(None, "a"), Row(None, "b"), Row(None, "a")])
    embed(store)
    dataset = to_dataset(store, "train", "fake")
    assert dataset.column_names == ["document", "document_embedding"]
    assert same_vectors(store, from_dataset(dataset, None, tmp_path / "b", None, teacher="fake"))


def own(**columns):
    return datasets.Dataset.from_dict({"t": ["a", "b"], "t_vec": [[1.0, 2.0], [3.0, 4.0]], **columns})


OWN = VectorColumns(document="t", suffix="_vec")


def test_a_users_own_columns_and_a_second_teacher(tmp_path):
    dataset = own(t_big=[[1.0] * 3, [2.0] * 3])
    from_dataset(dataset, OWN, tmp_path / "s", {"model": "x"}, teacher="one")
    big = VectorColumns(document="t", suffix="_big")
    store = from_dataset(dataset, big, tmp_path / "s", {"model": "y"}, teacher="two")
    assert store.teachers == ("one", "two")
    np.testing.assert_array_equal(store.teacher("one").take(np.array([1, 0]), "document"), [[3, 4], [1, 2]])
    assert (store.teacher("two").width, store.teacher("two").dtype) == (3, "float32")


@pytest.mark.parametrize(
    ("columns", "described", "message"),
    [
        ({"t_vec": [[0.1, 2.0], [3.0, 4.0]]}, {}, "is float64, and float32 cannot represent its values exactly"),
        (
            {"t_vec": [[1.001, 2.0], [3.0, 4.0]]},
            {"dtype": "float16"},
            "dtype float16 cannot represent the vectors exactly",
        ),
        (
            {"t_vec": [[1.0, 2.0], [3.0]]},
            {},
            "row 2, column 't_vec': has 1 numbers, expected .* one width, here 2",
        ),
        (
            {"t_vec": [[1.0], [3.0, 2.0, 1.0]]},
            {},
            "row 2, column 't_vec': has 3 numbers, expected",
        ),
        ({"t_vec": [[1.0, 2.0], [3.0, None]]}, {}, "row 2, column 't_vec': has missing numbers"),
        ({"t_vec": [[1.0, 2.0], None]}, {}, "row 2, column 't_vec': has 0 numbers"),
        ({"t": ["a", "\u200b"]}, {}, "row 2, column 't': is '.u200b', expected a text"),
        ({"t_vec": ["x", "y"]}, {}, "column 't_vec': is string, expected vectors"),
        ({"t": ["a", ""]}, {}, "row 2, column 't': is '', expected a text"),
        ({"t": ["a", "a"]}, {}, "row 2, column 't': the text has another vector than in row 1"),
        ({"t_vec": [[1.0, 2.0], [float("nan"), 4.0]]}, {}, "the vector of the document 'b' is NaN"),
    ],
)
def test_what_is_no_column_of_exact_vectors_is_refused(tmp_path, columns, described, message):
    dataset = own(**columns)
    if described:
        dataset = dataset.cast_column("t_vec", datasets.Sequence(datasets.Value("float32")))
    with pytest.raises(UserError, match=message):
        from_dataset(dataset, OWN, tmp_path / "s", described, teacher="x")


def test_missing_columns_are_listed(tmp_path):
    with pytest.raises(UserError, match=r"has no column t_embedding. It has: t, t_vec"):
        from_dataset(own(), VectorColumns(document="t"), tmp_path / "s", {}, teacher="x")


def test_prompts_of_both_sides_come_from_the_description(tmp_path):
    rows = {"query": ["a"], "query_embedding": [[1.0]], "document": ["a"], "document_embedding": [[2.0]]}
    dataset = datasets.Dataset.from_dict(rows)
    with pytest.raises(UserError, match=r"If queries and documents had different prompts"):
        from_dataset(dataset, None, tmp_path / "a", {}, teacher="x")
    described = description(prompts={"query": "q", "document": ""}, width=None)
    store = from_dataset(dataset, None, tmp_path / "b", described, teacher="x")
    assert store.teacher("x").take(np.array([0]), "query") == 1
    assert store.teacher("x").take(np.array([0]), "document") == 2


def test_a_description_may_name_the_prompt_of_one_side_and_nothing_but_prompts(tmp_path):
    store = from_dataset(own(), OWN, tmp_path / "a", {"prompts": {"query": "q: "}}, teacher="x")
    assert store.teacher("x").manifest["description"]["prompts"] == {"query": "q: ", "document": ""}
    for wrong in ("query: ", {"query": None}, {"passage": "p: "}):
        with pytest.raises(UserError, match=r"description: prompts is .*, expected a text for each side"):
            from_dataset(own(), OWN, tmp_path / "b", {"prompts": wrong}, teacher="x")
    assert not (tmp_path / "b").exists()


def test_json_that_describes_no_teacher_is_no_description(tmp_path):
    dataset = own()
    dataset.info.description = '{"license": "mit"}'
    with pytest.raises(UserError, match=r"does not say how its vectors were made"):
        from_dataset(dataset, OWN, tmp_path / "a", None, teacher="x")


def test_queries_and_documents_may_be_one_column(tmp_path):
    columns = VectorColumns(query="document", suffix=OWN.suffix)
    dataset = datasets.Dataset.from_dict({"document": ["a", "b"], "document" + OWN.suffix: [[1.0], [2.0]]})
    rows = from_dataset(dataset, columns, tmp_path / "a", {}, teacher="x").rows("train")
    np.testing.assert_array_equal(rows.queries, rows.documents[:, 0])


def test_what_is_no_single_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has splits \(train\).* Pass one of them, such as dataset\['train'\]"):
        from_dataset(datasets.DatasetDict({"train": own()}), OWN, tmp_path / "a", {}, teacher="x")
    with pytest.raises(UserError, match=r"of type IterableDataset, expected a Dataset"):
        from_dataset(own().to_iterable_dataset(), OWN, tmp_path / "a", {}, teacher="x")


def test_a_round_trip_that_loses_the_description_is_refused(make_store, tmp_path):
    store = make_store()
    embed(store)
    to_dataset(store, "train", "fake").to_parquet(str(tmp_path / "a.parquet"))
    dataset = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"does not say how its vectors were made.* Pass `description`"):
        from_dataset(dataset, None, tmp_path / "b", None, teacher="fake")
    given = store.teacher("fake").manifest["description"]
    assert same_vectors(store, from_dataset(dataset, None, tmp_path / "c", given, teacher="fake"))
