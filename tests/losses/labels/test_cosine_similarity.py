import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import CosineSimilarity, cosine_similarity

Q, D = jnp.array([[2.0, 0.0], [1.0, 1.0]]), jnp.array([[0.0, 1.0], [3.0, 3.0]])


@pytest.mark.parametrize(("penalty", "expected"), [("squared", [0.25, 0.04]), ("absolute", [0.5, 0.2])])
def test_by_hand(penalty: str, expected: list[float]) -> None:
    """Cosines 0 and 1."""
    values = cosine_similarity(Q, D, jnp.array([0.5, 0.8]), penalty=penalty)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("penalty", ["squared", "absolute"])
def test_a_pair_that_is_right_is_left_alone(penalty: str) -> None:
    gradient = jax.jit(jax.grad(lambda q: cosine_similarity(q, D[:1], jnp.zeros(1), penalty=penalty).sum()))(Q[:1])
    assert not gradient.any()


def test_labels_out_of_reach_are_reported() -> None:
    assert "absolute value 5" in CosineSimilarity().check_targets(None, jnp.array([[0.0], [5.0]]))[0]
    assert not CosineSimilarity().check_targets(None, jnp.array([[-1.0], [1.0]]))
    assert not CosineSimilarity().check_targets(None, None)
