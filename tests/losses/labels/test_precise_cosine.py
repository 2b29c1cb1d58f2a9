import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses.labels.precise_cosine import precise_cosine


@pytest.mark.parametrize("width", [1, 12, 384])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cosine_is_rounded_once(width: int, compiled: bool) -> None:
    random = np.random.default_rng(width)
    a, b = np.float32(random.standard_normal((2, 200, width)))
    b += a  # near 1, where float32 is coarsest
    x, y = np.float64(a), np.float64(b)
    expected = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    ours = np.float64((jax.jit(precise_cosine) if compiled else precise_cosine)(jnp.asarray(a), jnp.asarray(b)))
    assert np.abs(ours - expected).max() < 8e-8  # half a unit in the last place is 3e-8
    assert np.sqrt(np.square(ours - expected).mean()) < 2.5e-8


def test_gradient_is_that_of_a_plain_cosine() -> None:
    a, b = jnp.float32(np.random.default_rng(0).standard_normal((2, 5, 4)))

    def plainly(a: jax.Array) -> jax.Array:
        lengths = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
        return ((a * b).sum(axis=1) / lengths).sum()

    def ours(a: jax.Array) -> jax.Array:
        return precise_cosine(a, b).sum()

    np.testing.assert_allclose(jax.grad(ours)(a), jax.jit(jax.grad(plainly))(a), rtol=1e-5, atol=1e-7)


def test_cosine_with_a_zero_vector_is_zero() -> None:
    a = jnp.zeros((1, 4))
    gradient = jax.jit(jax.grad(lambda a: precise_cosine(a, jnp.ones((1, 4))).sum()))(a)
    assert float(precise_cosine(a, jnp.ones((1, 4)))[0]) == 0
    assert np.isfinite(gradient).all()
