import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.store import Store, write_texts
from tests.store.conftest import Row, pairs


def test_texts_are_numbered_by_first_occurrence_and_kept_once(make_store):
    rows = [Row("q", "d", ("n",), 0.5), Row("d", "q", ("é\n ",), -1.0)]
    store = make_store(rows)
    assert list(store.texts) == ["q", "d", "n", "é\n "]
    assert len(store.texts) == 4
    train = store.rows("train")
    np.testing.assert_array_equal(train.queries, [0, 1])
    np.testing.assert_array_equal(train.documents, [[1, 2], [0, 3]])
    np.testing.assert_array_equal(train.scores, [[0.5], [-1.0]])
    assert [a.dtype for a in train[:3]] == [np.int32, np.int32, np.float32]
    assert store.texts.take(np.array([3, 0, 3])) == ["é\n ", "q", "é\n "]
    assert store.texts[1] == "d"


def test_a_row_has_a_score_for_each_document_or_negative(make_store, tmp_path):
    for name, scores in (("documents", (1.0, 0.5, -np.inf)), ("negatives", (0.5, -0.5))):
        write_texts(tmp_path / name, [("a", "train", [Row("q", "d", ("m", "n"), scores)] * 2)], fingerprint={})
        kept = Store.open(tmp_path / name).rows("train").scores
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, [scores] * 2)
    wrong = [Row("q", "d", ("m", "n"), (1.0,) * 4)]
    with pytest.raises(UserError, match=r"data.a: its rows have .*2 negatives and 4 scores. Expected 1 score, or one"):
        write_texts(tmp_path / "wrong", [("a", "train", wrong)], fingerprint={})
    mixed = [Row("q", "d", ("n",), 1.0), Row("q", "d", ("n",), (1.0, 0.5))]
    with pytest.raises(UserError, match=r"1 negatives and 2 scores, but .* have .*1 negatives and 1 score\. Map"):
        write_texts(tmp_path / "mixed", [("a", "train", mixed)], fingerprint={})


@pytest.mark.parametrize(
    ("given", "names"),
    [(("b", "a", "b"), ("a", "b")), (("10", "9", "10"), ("9", "10")), (("10", "9", "x"), ("10", "9", "x"))],
)
def test_labels_are_numbered_whatever_the_order_of_rows(make_store, tmp_path, given, names):
    store = make_store([Row(None, f"text {i}", label=label) for i, label in enumerate(given)])
    assert store.labels == names
    labels = store.rows("train").labels
    assert labels.dtype == np.int32
    assert [names[i] for i in labels] == list(given)
    again = [Row(None, f"text {i}", label=label) for i, label in enumerate(given[::-1])]
    write_texts(tmp_path / "again", [("a", "train", again)], fingerprint={})
    assert Store.open(tmp_path / "again").labels == names


def test_roles_share_the_numbers_of_labels(make_store):
    store = make_store([Row(None, "x", label="b"), Row(None, "y", label="c")], heldout=[Row(None, "z", label="a")])
    assert store.labels == ("a", "b", "c")
    np.testing.assert_array_equal(store.rows("train").labels, [1, 2])
    np.testing.assert_array_equal(store.rows("heldout").labels, [0])


def test_all_rows_of_a_role_have_a_label_or_none(make_store, tmp_path):
    store = make_store([Row(None, "x")])
    assert store.labels == ()
    assert store.rows("train").labels is None
    mixed = [Row("q", "d", label="1"), Row("q", "d")]
    with pytest.raises(
        UserError, match=r"its rows have .* no score, but earlier rows .* have .* no score, and a label\. Map"
    ):
        write_texts(tmp_path / "s", [("a", "train", mixed)], fingerprint={})


def test_plain_texts_have_neither_queries_nor_scores(make_store):
    train = make_store([Row(None, "a"), Row(None, "b"), Row(None, "a")]).rows("train")
    assert train.queries is None
    assert train.scores is None
    np.testing.assert_array_equal(train.documents, [[0], [1], [0]])


def test_roles_are_kept_apart_and_may_differ_in_parts(make_store):
    store = make_store(pairs(5), heldout=[Row(None, "text 1")])
    assert store.roles == ("heldout", "train")
    assert len(store.rows("train").documents) == 5
    np.testing.assert_array_equal(store.rows("heldout").documents, [[store.rows("train").queries[1]]])
    assert store.manifest["roles"]["train"]["sources"] == [{"name": "train data", "rows": 5}]
    with pytest.raises(UserError, match=r"no rows of the role 'test'. It has: heldout, train"):
        store.rows("test")


def test_a_store_that_is_there_is_left_alone(make_store, tmp_path):
    make_store()

    def unread():
        raise AssertionError("rows were read")
        yield

    write_texts(tmp_path / "store", [("a", "train", unread())], fingerprint={"x": 1})


def test_other_data_is_refused_naming_what_differs(make_store, tmp_path):
    make_store()
    with pytest.raises(
        UserError, match=r"made from other data: x is 1 in the store and 2 now; y is not in the store\. Choose another"
    ):
        write_texts(tmp_path / "store", [("a", "train", pairs(3))], fingerprint={"x": 2, "y": (1,)})


def test_rows_of_one_role_must_have_the_same_parts(tmp_path):
    sources = [("a", "train", [Row("q", "d")]), ("b", "train", [Row(None, "d")])]
    with pytest.raises(UserError, match=r"data.b: its rows have a plain text, 0 negatives and no score, but .*'train'"):
        write_texts(tmp_path / "s", sources, fingerprint={})
    assert not (tmp_path / "s" / "manifest.json").exists()
    assert not list((tmp_path / "s").rglob("*"))


def test_texts_that_are_no_unicode_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.a: the text '.*' is not valid Unicode"):
        write_texts(tmp_path / "s", [("a", "train", [Row(None, "x\ud800")])], fingerprint={})


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"train: no rows"):
        write_texts(tmp_path / "s", [("a", "train", [])], fingerprint={})


def test_no_store_is_reported_from_an_incomplete_one(tmp_path):
    with pytest.raises(UserError, match=r"does not exist"):
        Store.open(tmp_path / "s")
    (tmp_path / "s" / "texts").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is incomplete. Create it with `jdistill embed`"):
        Store.open(tmp_path / "s")


def test_later_formats_and_damaged_manifests_are_refused(make_store):
    store = make_store()
    manifest = store.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match=r"has format 2, but this version reads format 1"):
        Store.open(store.path)
    manifest.write_text("{")
    with pytest.raises(UserError, match=r"not valid JSON"):
        Store.open(store.path)


def test_errors_of_rows_pass_and_leave_nothing(tmp_path):
    def rows():
        yield Row("a", "b")
        raise UserError("row 2 is wrong")

    with pytest.raises(UserError, match=r"row 2 is wrong"):
        write_texts(tmp_path / "s", [("a", "train", rows())], fingerprint={})
    assert not list((tmp_path / "s").rglob("*"))
