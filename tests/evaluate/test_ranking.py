import numpy as np
import pytest

from jdistill.evaluate.ranking import best_columns, first_best


def _oracle(queries, corpus, top, exclude=None):
    """Sort everything by (-score, column)."""
    scores = queries @ corpus.T
    rows = []
    for i, row in enumerate(scores):
        columns = [j for j in range(len(row)) if exclude is None or exclude[i] != j]
        rows.append(sorted(columns, key=lambda j, row=row: (-row[j], j))[:top])
    return rows


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("top", [1, 5, 40, 60])
def test_chunks_do_not_change_the_ranking_not_even_of_ties(chunk, top):
    generator = np.random.default_rng(0)
    corpus = generator.integers(-1, 2, (40, 3)).astype(np.float32)  # whole numbers: exact scores, many ties
    queries = generator.integers(-2, 3, (9, 3)).astype(np.float32)
    chunks = (corpus[i : i + chunk] for i in range(0, 40, chunk))
    assert best_columns(queries, chunks, top=top, similarity="dot").tolist() == _oracle(queries, corpus, top)


def test_an_excluded_column_never_appears():
    generator = np.random.default_rng(0)
    corpus = generator.integers(-1, 2, (6, 3)).astype(np.float32)
    queries = generator.integers(-2, 3, (4, 3)).astype(np.float32)
    exclude = np.array([0, 5, -1, 3])
    best = best_columns(queries, [corpus[:4], corpus[4:]], top=6, similarity="dot", exclude=exclude)
    assert [[j for j in row if j >= 0] for row in best.tolist()] == _oracle(queries, corpus, 6, exclude)
    assert (best[[0, 1, 3], -1] == -1).all()


def test_cosine_ignores_length():
    corpus = np.array([[10.0, 10.0], [0.0, 0.1]], np.float32)
    assert best_columns(np.array([[0.0, 3.0]], np.float32), [corpus], top=1).tolist() == [[1]]


def test_first_best_of_all_equal_scores_is_the_first_positions():
    assert first_best(np.zeros((2, 5), np.float32), 3).tolist() == [[0, 1, 2]] * 2


def test_equal_documents_keep_their_order_wherever_the_product_rounds():
    """60 documents of 5 vectors: products in blocks may round the last columns of a block differently."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((5, 32)).astype(np.float32)
    which = generator.integers(0, 5, 60)
    queries = generator.standard_normal((20, 32)).astype(np.float32)
    columns = best_columns(queries, [vectors[which]], top=60)
    for row in columns:
        for document in range(5):
            of_one = row[which[row] == document]
            assert (np.diff(of_one) > 0).all()
            assert np.ptp(np.flatnonzero(which[row] == document)) == len(of_one) - 1
