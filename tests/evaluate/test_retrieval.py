import math

import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.evaluate import Retrieval
from jdistill.evaluate.retrieval import QrelsFile, ranking_metrics
from tests.evaluate.vectors import TableModel, random_table, write_csv, write_parquet

CUTOFFS = {"ndcg": (1, 3, 10), "mrr": (1, 10), "map": (10, 100), "recall": (1, 5), "accuracy": (1, 5)}


def _evaluator(tmp_path, corpus, queries, qrels, **options):
    judged = [(q, d, s) for q, documents in qrels.items() for d, s in documents.items()]
    q, d, s = (list(column) for column in zip(*judged, strict=True))
    return Retrieval(
        corpus={
            "path": write_parquet(tmp_path / "corpus.parquet", {"id": list(corpus), "text": list(corpus.values())})
        },
        queries={
            "path": write_parquet(tmp_path / "queries.parquet", {"id": list(queries), "text": list(queries.values())})
        },
        qrels={"path": write_parquet(tmp_path / "qrels.parquet", {"qid": q, "docid": d, "score": s})},
        **options,
    )


def _random_task(seed=0, queries=30, documents=150):
    generator = np.random.default_rng(seed)
    corpus = {f"d{i}": f"document {i}" for i in generator.permutation(documents)}
    texts = {f"q{i}": f"query {i}" for i in range(queries)}
    qrels = {q: {f"d{j}": 1 for j in generator.choice(documents, generator.integers(1, 6), False)} for q in texts}
    return corpus, texts, qrels


@pytest.mark.parity
@pytest.mark.parametrize("chunk_size", [7, 1000])
def test_equals_sentence_transformers(tmp_path, chunk_size):
    evaluation = pytest.importorskip("sentence_transformers.evaluation")
    corpus, queries, qrels = _random_task()
    table = random_table([*corpus.values(), *queries.values()])
    for query, documents in qrels.items():  # some signal, so that no metric is near 0
        for document in documents:
            table[corpus[document]] = table[corpus[document]] + 0.5 * table[queries[query]]
    model = TableModel(table)
    theirs = evaluation.InformationRetrievalEvaluator(
        queries,
        corpus,
        {query: set(documents) for query, documents in qrels.items()},
        ndcg_at_k=[1, 3, 10],
        mrr_at_k=[1, 10],
        map_at_k=[10, 100],
        precision_recall_at_k=[1, 5],
        accuracy_at_k=[1, 5],
        write_csv=False,
    )(model)
    ours = _evaluator(tmp_path, corpus, queries, qrels, chunk_size=chunk_size, **CUTOFFS)(model)
    assert len(ours) == 11
    assert ours == pytest.approx({name: theirs[f"cosine_{name}"] for name in ours}, abs=1e-6)
    assert 0.2 < ours["ndcg@10"] < 0.95


@pytest.mark.parity
def test_ties_are_broken_as_in_sentence_transformers(tmp_path):
    evaluation = pytest.importorskip("sentence_transformers.evaluation")
    corpus, queries, qrels = _random_task(seed=1)
    generator = np.random.default_rng(2)
    axes = np.eye(4)
    table = {text: axes[generator.integers(4)] for text in [*corpus.values(), *queries.values()]}  # cosine 0 or 1
    model = TableModel(table)
    theirs = evaluation.InformationRetrievalEvaluator(
        queries, corpus, {q: set(d) for q, d in qrels.items()}, write_csv=False, corpus_chunk_size=11
    )(model)
    ours = _evaluator(tmp_path, corpus, queries, qrels, chunk_size=13)(model)
    for name in ("ndcg@10", "mrr@10", "map@100", "recall@10", "accuracy@1", "accuracy@10"):
        assert ours[name] == pytest.approx(theirs[f"cosine_{name}"], abs=1e-6)


def test_measures_of_a_case_done_by_hand():
    rankings = {"q1": ["x", "a", "y", "b"], "q2": ["z", "y"]}
    judgments = {"q1": {"a": 1, "b": 1, "never": 1}, "q2": {"a": 1}}
    metrics = ranking_metrics(rankings, judgments, cutoffs=CUTOFFS)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal / 2)
    assert metrics["ndcg@1"] == 0
    assert metrics["mrr@10"] == pytest.approx(0.5 / 2)
    assert metrics["mrr@1"] == 0
    assert metrics["map@10"] == pytest.approx((1 / 2 + 2 / 4) / 3 / 2)
    assert metrics["recall@5"] == pytest.approx(2 / 3 / 2)
    assert metrics["accuracy@5"] == 0.5


def test_graded_judgments_count_in_ndcg():
    metrics = ranking_metrics({"q": ["low", "high"]}, {"q": {"low": 1, "high": 3, "no": 0}}, cutoffs={"ndcg": [10]})
    assert metrics["ndcg@10"] == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_equal_scores_rank_by_ascending_id(tmp_path):
    corpus = {"10": "same", "9": "same too", "2": "same as well"}
    model = TableModel({text: np.array([1.0, 0.0]) for text in [*corpus.values(), "query"]})
    for document, reciprocal in (("10", 1.0), ("2", 1 / 2), ("9", 1 / 3)):  # ids compare as strings: "10" < "2" < "9"
        for chunk_size in (1, 2, 3):
            evaluator = _evaluator(tmp_path, corpus, {"q": "query"}, {"q": {document: 1}}, chunk_size=chunk_size)
            assert evaluator(model)["mrr@10"] == pytest.approx(reciprocal)


@pytest.mark.parametrize(("exclude_self", "expected"), [(False, 1 / 2), (True, 1.0)])
def test_a_query_that_is_also_a_document(tmp_path, exclude_self, expected):
    corpus = {"1": "itself", "2": "near"}
    model = TableModel({"itself": np.array([1.0, 0.0]), "near": np.array([1.0, 0.5])})
    evaluator = _evaluator(tmp_path, corpus, {"1": "itself"}, {"1": {"2": 1}}, exclude_self=exclude_self)
    assert evaluator(model)["mrr@10"] == pytest.approx(expected)


def test_a_corpus_of_nothing_but_the_query_itself_scores_zero(tmp_path):
    model = TableModel({"itself": np.array([1.0, 0.0])})
    evaluator = _evaluator(tmp_path, {"1": "itself"}, {"1": "itself"}, {"1": {"1": 1}}, exclude_self=True)
    assert set(evaluator(model).values()) == {0.0}


def test_sides_titles_integer_ids_and_unjudged_queries(tmp_path):
    vectors = {"A title": [1.0, 0.0], "B text": [0.0, 1.0], "judged": [0.0, 1.0]}
    model = TableModel({text: np.array(vector) for text, vector in vectors.items()})
    corpus = {"number": [7, 8], "head": ["A", "B"], "body": ["title", "text"]}
    evaluator = Retrieval(
        corpus={"path": write_csv(tmp_path / "c.csv", corpus), "id": "number", "text": "body", "title": "head"},
        queries={"path": write_csv(tmp_path / "q.csv", {"id": [1, 2, 3], "text": ["judged", "not", "only zero"]})},
        qrels={"path": write_csv(tmp_path / "r.csv", {"qid": [1, 3], "docid": [8, 7], "score": [1, 0]})},
    )
    assert evaluator(model)["ndcg@10"] == 1.0
    assert model.calls == [("query", 1), ("document", 2)]


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "says"),
    [
        ({"d": "x"}, {"q": "y"}, {"other": {"d": 1}}, "column 'qid' has no query"),
        ({"d": "x"}, {"q": "y"}, {"q": {"d": 0}}, "with a judgment above 0"),
        ({"d": "x"}, {"q": "y"}, {"q": {"other": 1}}, "column 'docid' has no document"),
        ({"d": "x"}, {"q": "y"}, {"q": {"d": 0.5}}, "row 1, column 'score': is 0.5, expected a whole number"),
    ],
)
def test_files_that_do_not_fit_are_the_users_mistake(tmp_path, corpus, queries, qrels, says):
    with pytest.raises(UserError, match=says):
        _evaluator(tmp_path, corpus, queries, qrels)(TableModel({}))


def test_a_duplicate_id_is_named(tmp_path):
    file = write_parquet(tmp_path / "twice.parquet", {"id": ["1", "1"], "text": ["a", "b"]})
    evaluator = _evaluator(tmp_path, {"1": "a"}, {"q": "b"}, {"q": {"1": 1}})
    evaluator = evaluator.model_copy(update={"corpus": evaluator.corpus.model_copy(update={"path": file})})
    with pytest.raises(UserError, match="row 2, column 'id': repeats '1'"):
        evaluator(TableModel({}))


def test_a_duplicate_id_is_reported_with_its_row_in_its_own_file(tmp_path):
    (tmp_path / "c1.csv").write_text("id,text\n1,a\n2,b\n")
    (tmp_path / "c2.csv").write_text("id,text\n3,a\n\n1,b\n")
    evaluator = _evaluator(tmp_path, {"1": "a"}, {"q": "b"}, {"q": {"1": 1}})
    corpus = evaluator.corpus.model_copy(update={"path": str(tmp_path / "c?.csv")})
    with pytest.raises(UserError, match=r"c2\.csv, row 2 \(line 4\), column 'id': repeats '1'"):
        evaluator.model_copy(update={"corpus": corpus})(TableModel({}))


def test_one_column_for_two_things_is_refused():
    with pytest.raises(ValueError, match="'query' and 'document' are both the column 'x'"):
        QrelsFile(path="x", query="x", document="x")


def test_ids_of_text_files_keep_their_zeros(tmp_path):
    (tmp_path / "c.csv").write_text("id,text\n0042,a\n0043,b\n10,c\n")
    (tmp_path / "q.tsv").write_text("id\ttext\n1\ta\n02\tb\n")
    (tmp_path / "r.tsv").write_text("qid\tdocid\tscore\n1\t0042\t1\n02\t0043\t1\n")
    paths = {
        name: {"path": str(tmp_path / file)}
        for name, file in (("corpus", "c.csv"), ("queries", "q.tsv"), ("qrels", "r.tsv"))
    }
    model = TableModel({"a": np.eye(3)[0], "b": np.eye(3)[1], "c": np.eye(3)[2]})
    assert Retrieval(**paths)(model)["ndcg@10"] == 1.0
    (tmp_path / "r.tsv").write_text("qid\tdocid\tscore\n1\t0042\t1\n1\t0042\t0\n")
    with pytest.raises(
        UserError, match=r"row 2 \(line 3\): judges document '0042' for query '1' as 0, an earlier row as 1"
    ):
        Retrieval(**paths)(model)
    (tmp_path / "q.tsv").write_text("id\ttext\n1\ta\n02\t\u200b\n")
    with pytest.raises(UserError, match=r"q.tsv, row 2 \(line 3\), column 'text': is .* expected a text"):
        Retrieval(**paths)(model)
