"""The scatter-max of the sparse vocabulary head, where several places of a token are the largest."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.pooling.sparse_vocabulary import largest_of_tokens
from tests.student.pooling.inputs import value_and_gradient

VALUES = np.array([[1.0, 2.0, 2.0, 0.5, 2.0], [3.0, 3.0, 0.0, 0.0, 1.0]], np.float32)
IDS = np.array([[4, 7, 7, 4, 7], [2, 2, 5, 5, 0]], np.int32)


@pytest.mark.parity
def test_value_and_gradient_are_those_of_torch_scatter_reduce():
    torch = pytest.importorskip("torch")
    cotangent = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    values = torch.tensor(VALUES, requires_grad=True)
    expected = torch.zeros(2, 9).scatter_reduce(1, torch.tensor(IDS, dtype=torch.int64), values, "amax")
    expected.backward(torch.tensor(cotangent))
    ours, (gradient,) = value_and_gradient(_largest, cotangent, jnp.asarray(VALUES))
    np.testing.assert_allclose(ours, expected.detach().numpy())
    positive = VALUES > 0  # behind relu, the gradient of a zero is lost whatever it is
    np.testing.assert_allclose(gradient[positive], values.grad.numpy()[positive], rtol=1e-6)


def test_what_is_left_out_gets_no_gradient():
    ours, (gradient,) = value_and_gradient(
        lambda v: _largest(v, left_out=VALUES > 2.5), np.ones((2, 9)), jnp.asarray(VALUES)
    )
    assert ours[1, 2] == 0
    np.testing.assert_array_equal(gradient[1, :2], 0)
    np.testing.assert_allclose(gradient[0], [1, 1 / 3, 1 / 3, 0, 1 / 3])


def _largest(values, left_out=False):
    texts = np.where(left_out, 2, np.broadcast_to(np.arange(2)[:, None], IDS.shape)).astype(np.int32)
    return largest_of_tokens(values.reshape(-1), jnp.asarray(texts.reshape(-1)), jnp.asarray(IDS.reshape(-1)), 2, 9)
