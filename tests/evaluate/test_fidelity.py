import numpy as np
import pytest
from scipy import stats

from jdistill.evaluate import Fidelity, FidelityConfig, fidelity
from tests.evaluate.vectors import TableModel, random_table


def _oracle(student, teacher, k):
    """Loops over texts, float64."""
    cosines = []
    for vectors in (student, teacher):
        units = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        cosines.append(units @ units.T)
    rho, overlap = [], []
    for i in range(len(student)):
        ours, theirs = (np.delete(scores[i], i) for scores in cosines)
        rho.append(stats.spearmanr(ours, theirs).statistic)
        overlap.append(len(set(np.argsort(-ours)[:k]) & set(np.argsort(-theirs)[:k])) / k)
    return np.mean(rho), np.mean(overlap)


@pytest.mark.parametrize("n", [30, 300])  # one block of rows, and more than one
def test_equals_loops_over_the_texts(n):
    generator = np.random.default_rng(0)
    teacher = generator.normal(size=(n, 24)).astype(np.float32)
    student = (teacher[:, :8] + 0.5 * generator.normal(size=(n, 8))).astype(np.float32)
    metrics = fidelity(student, teacher)
    rho, overlap = _oracle(student, teacher, 10)
    assert metrics == pytest.approx({"spearman": rho, "overlap@10": overlap}, abs=1e-5)  # no cosine: widths differ


@pytest.mark.parity
def test_negative_mse_has_the_scale_of_sentence_transformers():
    evaluation = pytest.importorskip("sentence_transformers.evaluation")
    texts = [f"text {i}" for i in range(20)]
    teacher, student = TableModel(random_table(texts, seed=0)), TableModel(random_table(texts, seed=1))
    theirs = evaluation.MSEEvaluator(texts, texts, teacher_model=teacher, write_csv=False)(student)
    ours = fidelity(student(texts, side="document"), teacher(texts, side="document"))
    assert ours["negative_mse"] == pytest.approx(theirs["negative_mse"], rel=1e-5)


def test_a_rotated_and_stretched_copy_keeps_every_neighbour_but_not_the_vectors():
    generator = np.random.default_rng(0)
    teacher = generator.normal(size=(40, 6)).astype(np.float32)
    rotation = np.linalg.qr(generator.normal(size=(6, 6)))[0].astype(np.float32)
    metrics = fidelity(3 * teacher @ rotation, teacher)
    assert metrics["spearman"] == pytest.approx(1, abs=1e-4)
    assert metrics["overlap@10"] == 1
    assert metrics["cosine"] < 0.9
    assert fidelity(teacher, teacher)["cosine"] == pytest.approx(1)
    assert fidelity(teacher, teacher)["negative_mse"] == 0


def test_a_collapsed_student_has_no_fidelity():
    teacher = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    assert fidelity(np.ones((40, 6), np.float32), teacher)["spearman"] == pytest.approx(0, abs=0.05)


def test_fewer_texts_than_neighbours():
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert fidelity(vectors, vectors)["overlap@10"] == 1
    with pytest.raises(ValueError, match="three or more"):
        fidelity(vectors[:2], vectors[:2])


def test_is_called_as_evaluators_are_and_on_the_side_given():
    texts = [f"text {i}" for i in range(12)]
    model = TableModel(random_table(texts))
    teacher = model(texts, side="query")
    metrics = Fidelity(FidelityConfig(neighbours=3), {"query": texts}, teacher)(model)
    assert metrics["overlap@3"] == 1
    assert model.calls[-1] == ("query", 12)
    assert Fidelity.primary in metrics


def test_rows_are_spread_evenly_and_within_the_limit():
    rows = FidelityConfig(limit=5).rows(1000)
    assert rows.tolist() == [0, 250, 500, 749, 999]
    assert FidelityConfig(limit=5).rows(3).tolist() == [0, 1, 2]
