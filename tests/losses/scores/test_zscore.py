from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.losses import ScoreZscore, score_mse, score_zscore
from jdistill.losses.maths import matmul
from jdistill.losses.scores.zscore import zscore_factors
from tests.losses.inputs import plain
from tests.losses.scores.scored import view_for


def direct(texts: np.ndarray, candidates: np.ndarray, eps: float) -> np.ndarray:
    """Z-scores of the whole matrix, formed, in float64."""
    matrix = texts.astype(np.float64) @ candidates.astype(np.float64).T
    return (matrix - matrix.mean()) / (matrix.std(ddof=1) + eps)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 30.0]), st.sampled_from([1e-6, 0.5]), st.sampled_from([6, 8])
)
def test_statistics_without_the_matrix_are_those_of_the_matrix(seed: int, shift: float, eps: float, width: int) -> None:
    """Also where all vectors share a large part, so that a variance from raw moments would cancel.

    A width of 6 is narrow enough for Gram matrices (36 numbers for 45 scores), one of 8 is not.
    """
    random = np.random.default_rng(seed)
    texts, candidates = (np.float32(random.standard_normal((n, width)) + shift) for n in (5, 9))
    rows = jnp.array([4, 1])
    ours = zscores(jnp.asarray(texts), jnp.asarray(candidates), rows, similarity="dot", eps=eps)
    np.testing.assert_allclose(ours, direct(texts, candidates, eps)[rows], rtol=1e-4, atol=2e-5)


def zscores(
    texts: jax.Array, candidates: jax.Array, rows: jax.Array, similarity: str = "cosine", eps: float = 1e-6
) -> jax.Array:
    """Some rows of the matrix that `score_zscore` compares in blocks."""
    of_rows, of_candidates = zscore_factors(texts, candidates, rows, similarity=similarity, eps=eps)
    return matmul(of_rows, of_candidates.T)


def of_zscores(x: jax.Array, y: jax.Array, t: jax.Array, u: jax.Array) -> jax.Array:
    return score_zscore(x, y, t, u, jnp.arange(len(x)))


@pytest.mark.parametrize("width", [30_522, 250_002])
@pytest.mark.parametrize("loss", [of_zscores, score_mse])
def test_vectors_over_a_vocabulary_take_no_gram_matrix(loss: Callable[..., jax.Array], width: int) -> None:
    """A Gram matrix would take 4 GB or 250 GB; a batch of 32 vectors takes 4 MB or 32 MB."""
    x, t = jax.ShapeDtypeStruct((32, width), jnp.float32), jax.ShapeDtypeStruct((32, 64), jnp.float32)
    compiled = jax.jit(jax.grad(lambda *given: loss(*given).mean(), argnums=(0, 1))).lower(x, x, t, t).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * 32 * width * 4
    cost = compiled.cost_analysis()
    assert cost is not None
    assert cost["flops"] < 30 * 2 * 32 * 32 * width


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
