import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jdistill.losses import Triplet, triplet

Q, D = jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 3.0]])
N = jnp.array([[[0.0, 2.0], [4.0, 1.0], [9.0, 1.0]]])


def test_by_hand() -> None:
    """Euclidean distances: document 2, negatives 1, 4, 9. Cosine distances: 0; 0, 1 - 1/sqrt(17), 1 - 1/sqrt(82)."""
    assert triplet(Q, D, N).tolist() == [(6 + 3 + 0) / 3]
    assert triplet(Q, D, N, margin=1.0).tolist() == pytest.approx([2 / 3])
    expected = (1.5 + (0.5 + 17**-0.5) + (0.5 + 82**-0.5)) / 3
    assert float(triplet(Q, D, N, margin=1.5, distance="cosine")[0]) == pytest.approx(expected, rel=1e-6)


def test_negatives_far_enough_away_are_left_alone() -> None:
    gradient = jax.jit(jax.grad(lambda n: triplet(Q, D, n).sum()))(N)
    assert gradient[0, :2].any(axis=1).all()
    assert not gradient[0, 2].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["euclidean", "cosine"]))
def test_order_of_the_negatives_does_not_matter(seed: int, distance: str) -> None:
    random = np.random.default_rng(seed)
    q, d = jnp.float32(random.standard_normal((2, 3, 4)))
    n = jnp.float32(random.standard_normal((3, 5, 4)))
    order = random.permutation(5)
    values = triplet(q, d, n, distance=distance, margin=1.0)
    np.testing.assert_allclose(triplet(q, d, n[:, order], distance=distance, margin=1.0), values, rtol=1e-5, atol=1e-6)
    if distance == "cosine":
        longer = triplet(3 * q, d / 7, n * 2, distance=distance, margin=1.0)
        np.testing.assert_allclose(longer, values, rtol=1e-5, atol=1e-6)


def test_a_margin_that_cosine_cannot_reach_is_refused() -> None:
    with pytest.raises(ValidationError, match="margin 5 can never be reached"):
        Triplet(distance="cosine")
    assert Triplet(distance="cosine", margin=0.2).margin == 0.2
    assert (Triplet().distance, Triplet().margin) == ("euclidean", 5)


def test_equal_vectors_have_a_gradient_without_nan() -> None:
    same = jnp.ones((1, 4))
    gradient = jax.jit(jax.grad(lambda q: triplet(q, same, same[:, None]).sum()))(same)
    assert not gradient.any()
