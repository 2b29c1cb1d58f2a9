import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.evaluate import Triplet
from jdistill.evaluate.triplet import triplet_accuracy
from tests.evaluate.vectors import TableModel, random_table, write_parquet


def _triplets(tmp_path, n=80):
    columns = {name: [f"{name}{i}" for i in range(n)] for name in ("anchor", "positive", "negative")}
    return columns, write_parquet(tmp_path / "triplets.parquet", columns)


@pytest.mark.parity
@pytest.mark.parametrize("margin", [0.0, 0.1, -0.2])
def test_equals_sentence_transformers(tmp_path, margin):
    evaluation = pytest.importorskip("sentence_transformers.evaluation")
    columns, file = _triplets(tmp_path)
    model = TableModel(random_table([text for column in columns.values() for text in column]))
    theirs = evaluation.TripletEvaluator(
        *columns.values(), margin=margin, similarity_fn_names=["cosine"], write_csv=False
    )(model)
    assert Triplet(path=file, margin=margin)(model)["cosine_accuracy"] == pytest.approx(theirs["cosine_accuracy"])


def test_a_draw_is_a_loss():
    anchors = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    positives = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    negatives = np.array([[0, 1], [1, 0], [1, 0]], np.float32)  # won, drawn, lost
    assert triplet_accuracy(anchors, positives, negatives) == pytest.approx(1 / 3)
    assert triplet_accuracy(anchors, positives, negatives, margin=1.0) == 0.0


def test_anchors_are_queries_and_the_rest_documents(tmp_path):
    columns, file = _triplets(tmp_path, n=5)
    model = TableModel(random_table([text for column in columns.values() for text in column]))
    Triplet(path=file)(model)
    assert model.calls == [("query", 5), ("document", 10)]


def test_one_column_for_two_things_is_refused():
    with pytest.raises(ValueError, match="'positive' and 'negative' are both the column 'x'"):
        Triplet(path="x", positive="x", negative="x")


def test_a_row_without_negative_is_named(tmp_path):
    file = write_parquet(tmp_path / "t.parquet", {"anchor": ["a"], "positive": ["b"], "negative": [None]})
    with pytest.raises(UserError, match="row 1, column 'negative': has no value"):
        Triplet(path=file)(TableModel({}))
