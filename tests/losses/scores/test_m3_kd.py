import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.losses import M3KD, info_nce, m3_kd
from jdistill.losses.temperature import Learned
from jdistill.types import PairEmbeddings
from tests.losses.inputs import Inputs, plain
from tests.losses.scores.scored import softmax, unit, vectors, view_for

B, C, D = 4, 3, 6


def direct(queries: np.ndarray, documents: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """One cross-entropy per document of a row, from the definition in float64."""
    n, c = documents.shape[:2]
    logits = np.einsum("bd,ncd->bnc", unit(queries), unit(documents)) / temperature
    values = np.zeros(n)
    for i in range(n):
        kept = np.ones((n, c), bool)
        for a in range(c):
            z = logits[i]
            values[i] += softmax(teacher)[i, a] * (np.log(np.exp(z[kept]).sum()) - z[i, a])
            kept[i, a] = False
    return values


def arguments(seed: int) -> tuple[jax.Array, ...]:
    queries, documents, teacher = vectors(seed, (B, D), (B, C, D), (B, C))
    return queries, documents, documents.swapaxes(0, 1).reshape(-1, D), jnp.arange(B), teacher


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 12]))
def test_a_cross_entropy_for_each_document_without_those_before_it(seed: int, block: int) -> None:
    queries, documents, candidates, rows, teacher = arguments(seed)
    ours = m3_kd(queries, documents, candidates, rows, teacher, temperature=0.2, block=block)
    np.testing.assert_allclose(ours, direct(queries, documents, teacher, 0.2), rtol=1e-5)


def test_some_rows_of_the_batch() -> None:
    queries, documents, candidates, _, teacher = arguments(0)
    rows = jnp.array([3, 1])
    some = m3_kd(queries[rows], documents[rows], candidates, rows, teacher[rows], temperature=0.2)
    np.testing.assert_allclose(some, direct(queries, documents, teacher, 0.2)[np.array(rows)], rtol=1e-5)


def test_without_hard_negatives_it_is_info_nce() -> None:
    inputs, term = plain(), M3KD(temperature=0.1)
    q, d = inputs.student
    expected = info_nce(jnp.asarray(q), jnp.asarray(d[:, 0]), jnp.arange(16), temperature=0.1)
    np.testing.assert_allclose(term(view_for(term, inputs, "documents")), expected, rtol=1e-5, atol=1e-7)


def test_a_document_without_weight_is_still_a_negative() -> None:
    queries, documents, candidates, rows, teacher = arguments(1)
    masked = teacher.at[:, 1].set(-jnp.inf)
    loss = jax.jit(jax.grad(lambda d, t: m3_kd(queries, d, candidates, rows, t).sum()))
    gradient = loss(documents, masked)
    assert np.isfinite(gradient).all()
    assert jnp.abs(gradient[:, 1]).max() > 0
    nothing = m3_kd(queries, documents, candidates, rows, jnp.full_like(teacher, -jnp.inf))
    assert nothing.tolist() == [0.0] * B


def test_a_batch_of_one_row() -> None:
    queries, documents, _, _, teacher = (x[:1] for x in arguments(2))
    candidates = documents[0]
    value, gradient = jax.jit(
        jax.value_and_grad(lambda q: m3_kd(q, documents, candidates, jnp.arange(1), teacher).sum())
    )(queries)
    np.testing.assert_allclose(value, direct(queries, documents, teacher, 0.02)[0], rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_learned_temperature_has_a_gradient() -> None:
    inputs, term = plain(negatives=1), M3KD(temperature=Learned(start=0.05))
    view = view_for(term, inputs, "documents")
    gradient = jax.jit(jax.grad(lambda p: term(view._replace(parameters=p)).mean()))(term.parameters())
    assert abs(gradient["log_temperature"]) > 0


@pytest.mark.parametrize(
    ("inputs", "scores", "message"),
    [
        (plain(negatives=1), None, "m3_kd with targets: scores .* these rows have none"),
        (plain(negatives=1), "pair", "have 2 documents .* and 1 scores"),
        (plain(negatives=1, queries=False), "documents", "plain texts without queries"),
    ],
)
def test_data_that_lack_something_are_refused(inputs: Inputs, scores: str | None, message: str) -> None:
    term = M3KD()
    with pytest.raises(UserError, match=message):
        term(view_for(term, inputs, scores))


def test_examine_looks_at_the_scores_of_a_rows_own_documents() -> None:
    documents = np.float32([[[1, 0], [-1, 0]], [[0, 1], [0, 1]]])
    teacher = PairEmbeddings(documents[:, 0], documents)
    (problem,) = M3KD(teacher="t", targets="vectors", teacher_temperature=0.01).check_targets(teacher, None)
    assert "25.0 % of the teacher's probabilities" in problem
    assert "Raise teacher_temperature to 0.023" in problem
    assert M3KD(teacher="t", targets="vectors").check_targets(teacher, None) == []
    assert M3KD().check_targets(None, jnp.float32([[200, 0]]))
