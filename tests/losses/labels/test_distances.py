"""Distances of pairs are torch's, also where vectors are equal or zero; those of triplets are 0 there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses.labels.distances import DISTANCES, PairDistance, pair_distances

A = np.float32([[1, 2, -3], [0, 0, 0], [1, 1, 1], [0.5, 0, 0]])
B = np.float32([[0, 4, -3], [1, 2, 3], [1, 1, 1], [0, 0, 0]])


@pytest.mark.parity
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_pairs_are_as_far_apart_as_in_torch(distance: PairDistance) -> None:
    from torch import tensor
    from torch.nn import functional

    a, b = (tensor(np.float64(x), requires_grad=True) for x in (A, B))
    theirs = {
        "cosine": lambda: 1 - functional.cosine_similarity(a, b),
        "euclidean": lambda: functional.pairwise_distance(a, b),
        "manhattan": lambda: functional.pairwise_distance(a, b, p=1),
    }[distance]()
    theirs.sum().backward()
    given = jnp.asarray(A), jnp.asarray(B)
    np.testing.assert_allclose(pair_distances(*given, distance), theirs.detach(), rtol=1e-6, atol=1e-7)
    gradients = jax.grad(lambda a, b: pair_distances(a, b, distance).sum(), argnums=(0, 1))(*given)
    for ours, x in zip(gradients, (a, b), strict=True):
        np.testing.assert_allclose(ours, x.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_vectors_of_a_triplet_do_not_move(distance: PairDistance) -> None:
    x = jnp.array([[1.0, 2.0, 2.0]])
    value, gradient = jax.value_and_grad(lambda a: DISTANCES[distance](a, x).sum())(x)
    assert float(value) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
