import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.losses import ScoreZscore, zscores
from tests.losses.inputs import plain
from tests.losses.scores.scored import view_for


def direct(texts: np.ndarray, candidates: np.ndarray, eps: float) -> np.ndarray:
    """Z-scores of the whole matrix, formed, in float64."""
    matrix = texts.astype(np.float64) @ candidates.astype(np.float64).T
    return (matrix - matrix.mean()) / (matrix.std(ddof=1) + eps)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 30.0]), st.sampled_from([1e-6, 0.5]))
def test_statistics_without_the_matrix_are_those_of_the_matrix(seed: int, shift: float, eps: float) -> None:
    """Also where all vectors share a large part, so that a variance from raw moments would cancel."""
    random = np.random.default_rng(seed)
    texts, candidates = (np.float32(random.standard_normal((n, 6)) + shift) for n in (5, 9))
    rows = jnp.array([4, 1])
    ours = zscores(jnp.asarray(texts), jnp.asarray(candidates), rows, similarity="dot", eps=eps)
    np.testing.assert_allclose(ours, direct(texts, candidates, eps)[rows], rtol=1e-4, atol=2e-5)


def test_mean_zero_and_deviation_one() -> None:
    x = jnp.float32(np.random.default_rng(0).standard_normal((32, 8)))
    z = np.float64(zscores(x, x, jnp.arange(32)))
    assert abs(z.mean()) < 1e-6
    assert z.std(ddof=1) == pytest.approx(1, abs=1e-4)


def test_equal_scores_give_zeros_and_no_gradient() -> None:
    same = jnp.broadcast_to(jnp.float32(np.random.default_rng(0).standard_normal((1, 384))), (12, 384))
    z, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.abs(zscores(x, x, jnp.arange(12))).sum()))(same)
    assert z == 0
    assert not gradient.any()


def test_any_affine_change_of_the_teachers_scores_is_forgiven() -> None:
    """A teacher whose dot products are those of the student, times 9, plus 4, asks for nothing."""
    inputs = plain()
    student = inputs.student

    def stretched(x: np.ndarray) -> np.ndarray:
        return np.concatenate([3 * x, np.full((*x.shape[:-1], 1), 2, np.float32)], axis=-1)

    term = ScoreZscore(teacher="t", similarity="dot")
    teacher = type(student)(stretched(student.queries), stretched(student.documents))
    assert float(term(view_for(term, inputs._replace(teachers={"t": teacher}))).max()) < 1e-8


def test_plain_texts_are_scored_against_each_other() -> None:
    inputs, term = plain(queries=False, negatives=2), ScoreZscore(teacher="t", similarity="dot")
    s, t = inputs.student.documents[:, 0], inputs.teachers["t"].documents[:, 0]
    expected = ((direct(s, s, term.eps) - direct(t, t, term.eps)) ** 2).mean(axis=1)
    np.testing.assert_allclose(term(view_for(term, inputs)), expected, rtol=1e-5)
