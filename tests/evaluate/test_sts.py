import numpy as np
import pytest
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.evaluate import STS
from jdistill.evaluate.sts import sts
from tests.evaluate.vectors import TableModel, random_table, write_parquet

ALL = ("cosine", "dot", "euclidean", "manhattan")


def _pairs(tmp_path, n=60, **names):
    first, second = [f"a{i}" for i in range(n)], [f"b{i % 50}" for i in range(n)]
    scores = np.random.default_rng(1).integers(0, 6, n).astype(float)  # with ties, as people score
    columns = {names.get("s1", "sentence1"): first, names.get("s2", "sentence2"): second, "score": scores}
    return first, second, scores, write_parquet(tmp_path / "pairs.parquet", columns)


@pytest.mark.parity
def test_equals_sentence_transformers(tmp_path):
    evaluation = pytest.importorskip("sentence_transformers.evaluation")
    first, second, scores, file = _pairs(tmp_path)
    model = TableModel(random_table(first + second))
    theirs = evaluation.EmbeddingSimilarityEvaluator(
        first, second, list(scores), similarity_fn_names=list(ALL), write_csv=False
    )(model)
    ours = STS(path=file, similarities=ALL)(model)
    assert set(ours) == {f"{kind}_{name}" for kind in ("pearson", "spearman") for name in ALL}
    assert ours == pytest.approx({key: theirs[key] for key in ours}, abs=1e-6)


def test_spearman_of_a_case_done_by_hand():
    first = np.array([[1.0, 0.0]] * 4, np.float32)
    second = np.array([[1, 0], [1, 1], [0, 1], [1, 0.5]], np.float32)  # cosines 1, .71, 0, .89 -> ranks 4 2 1 3
    # human ranks 3 4 1 2: squared rank differences 1 4 0 1, so rho = 1 - 6 * 6 / (4 * 15)
    metrics = sts(first, second, np.array([3.0, 4.0, 1.0, 2.0]))
    assert metrics["spearman_cosine"] == pytest.approx(1 - 36 / 60)


def test_a_collapsed_model_gets_zero_and_no_warning():
    same = np.ones((5, 3), np.float32)
    metrics = sts(same, same, np.arange(5.0), similarities=ALL)
    assert set(metrics.values()) == {0.0}


def test_file_is_read_once_and_columns_and_side_are_options(tmp_path):
    first, second, _, file = _pairs(tmp_path, s1="left", s2="right")
    model = TableModel(random_table(first + second))
    evaluator = STS(path=file, sentence1="left", sentence2="right", side="query")
    before = evaluator(model)
    (tmp_path / "pairs.parquet").unlink()
    assert evaluator(model) == before
    assert model.calls == [("query", 120)] * 2


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([1.0, None, 2.0], "row 2, column 'score': has no value, expected a number"),
        (["1", "high", "3"], "row 2, column 'score': is 'high'"),
        ([2.0, 2.0, 2.0], "all 3 scores are 2"),
    ],
)
def test_bad_scores_are_the_users_mistake(tmp_path, scores, says):
    file = write_parquet(tmp_path / "x.parquet", {"sentence1": list("abc"), "sentence2": list("abc"), "score": scores})
    with pytest.raises(UserError, match=says):
        STS(path=file)(TableModel({}))


def test_a_missing_text_is_named(tmp_path):
    columns = {"sentence1": ["a", None], "sentence2": ["a", "b"], "score": [0.0, 1.0]}
    file = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(UserError, match=r"x\.parquet, row 2, column 'sentence1': has no value"):
        STS(path=file)(TableModel({}))


def test_unknown_similarity_is_refused():
    with pytest.raises(ValidationError):
        STS(path="x.csv", similarities=("cosinus",))


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    first, second, _, file = _pairs(tmp_path, n=4)
    table = random_table(first + second)
    table["b2"][0] = np.nan
    with pytest.raises(ValueError, match="1 of 8 texts, first row 6"):
        STS(path=file)(TableModel(table))
