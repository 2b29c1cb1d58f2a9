import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.losses import ScoreMSE, score_mse
from tests.losses.inputs import plain
from tests.losses.scores.scored import unit, vectors, view_for

WEIGHTS = jnp.float32([1.0, 0.0, 3.0, 0.5, 2.0])


def direct(q: np.ndarray, c: np.ndarray, t: np.ndarray, u: np.ndarray) -> np.ndarray:
    q, c, t, u = (unit(x) for x in (q, c, t, u))
    return ((q @ c.T - t @ u.T) ** 2).mean(axis=1)


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize("noise", [1.0, 0.03])
def test_value_and_gradient_of_the_definition(shift: float, noise: float) -> None:
    """Also where all vectors share a large part, and where the student is nearly the teacher."""
    t, u, x, y = vectors(0, (5, 8), (9, 8), (5, 8), (9, 8))
    t, u = t + shift, u + shift
    q, c = t + noise * x, u + noise * y

    def total(q: jax.Array, c: jax.Array) -> jax.Array:
        return (score_mse(q, c, t, u, block=4) * WEIGHTS).sum()

    np.testing.assert_allclose(score_mse(q, c, t, u), direct(q, c, t, u), rtol=1e-4, atol=1e-9)
    ours = jax.jit(jax.grad(total, argnums=(0, 1)))(q, c)
    exact = oracle_gradient(q, c, t, u)
    for mine, theirs in zip(ours, exact, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=(1e-5 if shift == 0 else 1e-4) * np.abs(theirs).max())


def oracle_gradient(*arrays: jax.Array) -> list[np.ndarray]:
    """Central differences of the definition in float64."""
    q, c, t, u = (np.float64(x) for x in arrays)
    gradients = []
    for which, x in enumerate((q, c)):
        gradient = np.zeros_like(x)
        for index in np.ndindex(x.shape):
            values = []
            for step in (1e-6, -1e-6):
                moved = [q.copy(), c.copy()]
                moved[which][index] += step
                values.append((direct(*moved, t, u) * np.float64(WEIGHTS)).sum())
            gradient[index] = (values[0] - values[1]) / 2e-6
        gradients.append(gradient)
    return gradients


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_length_and_order_of_candidates_do_not_matter(seed: int) -> None:
    q, c, t, u = vectors(seed, (5, 6), (9, 6), (5, 4), (9, 4))
    order = np.random.default_rng(seed).permutation(9)
    value = score_mse(q, c, t, u)
    changed = score_mse(3 * q, c[order], t, 0.5 * u[order])
    np.testing.assert_allclose(changed, value, rtol=2e-5)


def test_no_score_matrix_is_held() -> None:
    q, c, t, u = (jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (1024, 8192, 1024, 8192))
    gradient = jax.jit(jax.grad(lambda *x: score_mse(*x, block=256).mean(), argnums=(0, 1)))
    memory = gradient.lower(q, c, t, u).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1024 * 8192 * 4


def test_plain_texts_are_scored_against_each_other_and_negatives_are_candidates() -> None:
    inputs = plain(queries=False, negatives=2)
    term = ScoreMSE(teacher="t")
    s, t = inputs.student.documents, inputs.teachers["t"].documents
    np.testing.assert_allclose(
        term(view_for(term, inputs)), direct(s[:, 0], s[:, 0], t[:, 0], t[:, 0]), rtol=1e-5, atol=1e-7
    )
    every = ScoreMSE(teacher="t", candidates="all")
    columns = [x.swapaxes(0, 1).reshape(-1, x.shape[-1]) for x in (s, t)]
    np.testing.assert_allclose(
        every(view_for(every, inputs)), direct(s[:, 0], columns[0], t[:, 0], columns[1]), rtol=1e-5, atol=1e-7
    )
