import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jdistill.losses.maths import cosine, matmul, norm, normalise, root, unit

NUMBERS = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)
VECTORS = arrays(np.float32, (4, 3), elements=NUMBERS)
SETTINGS = settings(max_examples=40, deadline=None)


@SETTINGS
@given(VECTORS)
def test_norm_is_the_euclidean_length_and_never_nan(x: np.ndarray) -> None:
    value, gradient = jax.jit(jax.value_and_grad(lambda x: norm(x).sum()))(jnp.asarray(x))
    np.testing.assert_allclose(
        norm(jnp.asarray(x)), np.linalg.norm(x.astype(np.float64), axis=-1), rtol=1e-5, atol=1e-15
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_norm_has_gradient_zero_at_zero() -> None:
    assert jax.jit(jax.grad(lambda x: norm(x)))(jnp.zeros(3)).tolist() == [0, 0, 0]


def test_root_of_what_rounding_made_negative() -> None:
    values, slope = jax.jit(jax.vmap(jax.value_and_grad(root)))(jnp.array([4.0, 0.0, -1e-9]))
    assert values.tolist() == [2, 0, 0]
    assert slope.tolist() == [0.25, 0, 0]


@SETTINGS
@given(VECTORS, st.floats(0.125, 8, width=32))
def test_scaling_a_vector_changes_no_cosine(x: np.ndarray, factor: float) -> None:
    x = jnp.asarray(np.where(np.abs(x) < 1e-2, 1, x))
    other = jnp.arange(12.0).reshape(4, 3) - 5
    np.testing.assert_allclose(cosine(factor * x, other), cosine(x, other), atol=1e-6)
    np.testing.assert_allclose(unit(factor * x, "cosine"), unit(x, "cosine"), atol=1e-6)


def test_zero_vectors() -> None:
    zero, one = jnp.zeros((1, 2)), jnp.ones((1, 2))
    assert normalise(zero).tolist() == [[0, 0]]
    assert cosine(zero, one).tolist() == [0]


@pytest.mark.parity
def test_gradients_at_a_zero_vector_are_those_of_torch() -> None:
    """Finite, but the incoming gradient over the guard: 1e12 and 1e8 times."""
    import torch

    def of_torch(function) -> np.ndarray:
        x = torch.zeros(3, requires_grad=True)
        function(x, torch.tensor([1.0, 2.0, 3.0])).backward()
        return x.grad.numpy()

    t = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda x: normalise(x) @ t))(jnp.zeros(3)),
        of_torch(lambda x, t: torch.nn.functional.normalize(x, dim=-1) @ t),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda x: cosine(x, t)))(jnp.zeros(3)),
        of_torch(lambda x, t: torch.nn.functional.cosine_similarity(x, t, dim=-1)),
        rtol=1e-6,
    )


def test_products_are_computed_in_full_precision() -> None:
    jaxpr = jax.make_jaxpr(matmul)(jnp.ones((2, 3)), jnp.ones((3, 4)))
    (product,) = (e for e in jaxpr.eqns if e.primitive.name == "dot_general")
    assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}


def test_half_precision_is_computed_in_float32() -> None:
    x = jnp.full((1, 3), 300.0, jnp.float16)  # its square overflows float16
    assert norm(x).dtype == jnp.float32
    assert float(norm(x)[0]) == pytest.approx(300 * 3**0.5, rel=1e-6)
