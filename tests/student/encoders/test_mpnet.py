"""MPNet's bias of attention at all distances, of which the table of encoders tries short ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.encoders.mpnet import BUCKETS, bias_of_distances, buckets_of


@pytest.mark.parity
def test_buckets_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = np.arange(-2000, 2001)
    expected = MPNetEncoder.relative_position_bucket(torch.tensor(distances)).numpy()
    np.testing.assert_array_equal(buckets_of(distances), expected)
    assert {*expected} == {*range(BUCKETS)} - {BUCKETS // 2}  # 0 places behind is 0 places before


@pytest.mark.parametrize("length", [1, 2, 7, 150])
def test_every_pair_of_places_has_the_bias_of_its_distance(length: int) -> None:
    rng = np.random.default_rng(0)
    biases = rng.normal(size=(BUCKETS, 3)).astype(np.float32)
    cotangent = rng.normal(size=(3, length, length)).astype(np.float32)
    buckets = buckets_of(np.arange(length)[None, :] - np.arange(length)[:, None])
    found, vjp = jax.vjp(lambda x: bias_of_distances(x, length), jnp.asarray(biases))
    np.testing.assert_allclose(found, biases[buckets].transpose(2, 0, 1), atol=1e-6)
    expected = np.zeros((BUCKETS, 3))
    np.add.at(expected, buckets.ravel(), cotangent.reshape(3, -1).T.astype(np.float64))
    np.testing.assert_allclose(vjp(jnp.asarray(cotangent))[0], expected, atol=1e-5 * np.abs(expected).max())
