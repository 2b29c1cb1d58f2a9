"""Both moments against the matrix of cosines, formed, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jdistill.losses import SpreadOut, spread_out
from jdistill.losses.regularise.spread_out import moments
from tests.losses.cases import Case
from tests.losses.inputs import plain
from tests.losses.measure import view


def direct(x: np.ndarray) -> tuple[float, float]:
    x = np.float64(x)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    s = x @ x.T
    np.fill_diagonal(s, 0)
    pairs = max(len(x) * (len(x) - 1), 1)
    return s.sum() / pairs, (s**2).sum() / pairs - 1 / x.shape[1]


def rows(seed: int, n: int, d: int, shift: float) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.float32(random.standard_normal((n, d)) + shift * random.standard_normal(d))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 3), (2, 64), (64, 64), (65, 64), (300, 8), (1000, 3), (5, 1)]),
    st.sampled_from([0.0, 0.3, 3.0]),
)
def test_moments_without_the_matrix_are_those_of_the_matrix(seed: int, shape: tuple[int, int], shift: float) -> None:
    """Also where what is subtracted is nearly all: spread out, the second is the small rest of n^2 / d."""
    x = rows(seed, *shape, shift)
    mean, excess = moments(jnp.asarray(x))
    expected = direct(x)
    size = expected[1] + 1 / shape[1]  # of the mean squared cosine
    np.testing.assert_allclose(mean, expected[0], rtol=1e-5, atol=3e-6 * size**0.5)
    np.testing.assert_allclose(excess, expected[1], rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("shape", [(40, 64), (200, 64), (1000, 16)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 3.0])
def test_gradient_is_that_of_the_matrix(shape: tuple[int, int], shift: float) -> None:
    x = jnp.asarray(rows(0, *shape, shift))

    def formed(x: jax.Array) -> jax.Array:
        u = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        s = jnp.where(jnp.eye(len(x), dtype=bool), 0.0, jnp.matmul(u, u.T, precision="highest"))
        pairs = len(x) * (len(x) - 1)
        return (s.sum() / pairs) ** 2 + (s**2).sum() / pairs

    def ours(x: jax.Array) -> jax.Array:
        mean, excess = moments(x)
        return mean**2 + excess

    expected = jax.jit(jax.grad(formed))(x)
    np.testing.assert_allclose(jax.grad(ours)(x), expected, rtol=1e-4, atol=1e-5 * float(jnp.abs(expected).max()))


def test_evenly_spread_vectors_cost_nothing() -> None:
    """The axes in both directions: mean cosine -1/(n - 1), mean squared cosine below 1/d."""
    axes = jnp.concatenate([jnp.eye(4), -jnp.eye(4)])
    assert float(spread_out([axes], mean_weight=0.0)) == 0
    assert float(spread_out([axes], second_moment_weight=0.0)) == pytest.approx((8 / 56) ** 2, rel=1e-5)


def test_columns_are_looked_at_alone() -> None:
    inputs = plain(negatives=2)
    q, d = inputs.student
    parts = [float(spread_out([jnp.asarray(x)])) for x in (q, d[:, 0], d[:, 1], d[:, 2])]
    for aggregation, expected in (("mean", np.mean(parts)), ("sum", np.sum(parts))):
        case = Case(SpreadOut(aggregation=aggregation), lambda _: None)
        np.testing.assert_allclose(case.loss(view(case, inputs)), np.full(16, expected), rtol=1e-5)


@pytest.mark.parametrize("width", [1, 8])
def test_a_batch_of_one_is_finite(width: int) -> None:
    value, gradient = jax.jit(jax.value_and_grad(lambda x: spread_out([x])))(jnp.ones((1, width)))
    assert value == 0
    assert not gradient.any()


def test_no_matrix_of_cosines_is_formed() -> None:
    x = jnp.ones((2048, 8))
    program = jax.jit(jax.grad(lambda x: spread_out([x]))).lower(x).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * x.nbytes


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="both 0"):
        SpreadOut(mean_weight=0, second_moment_weight=0)
    with pytest.raises(ValidationError, match="mean_weight"):
        SpreadOut(mean_weight=-1)
