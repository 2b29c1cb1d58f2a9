"""Normalisation and dense layers behind the pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.head import Dense, Normalize, apply_head, normalize


def test_normalize_gives_unit_length_and_keeps_zeros():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-8, 0.0]], jnp.float32)
    np.testing.assert_allclose(normalize(x), [[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)


def test_normalize_has_a_finite_gradient_everywhere():
    x = jnp.array([[0.0, 0.0], [1e-30, 0.0], [3.0, 4.0]], jnp.float32)
    gradient = jax.grad(lambda v: (normalize(v) * jnp.array([[1.0, 2.0]])).sum())(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0], [1.0, 2.0])


@pytest.mark.parity
def test_normalize_is_that_of_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    theirs_in = torch.tensor(x, requires_grad=True)
    theirs = torch.nn.functional.normalize(theirs_in, dim=-1)
    theirs.backward(torch.tensor(weights))
    ours, vjp = jax.vjp(normalize, jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-7)
    np.testing.assert_allclose(vjp(jnp.asarray(weights))[0], theirs_in.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_modules_run_in_their_order():
    x = np.array([[3.0, 4.0]], np.float32)
    kernel = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]], np.float32)
    bias = np.array([0.0, 1.0, 0.0], np.float32)
    modules = [Normalize(), Dense(in_features=2, out_features=3, activation="tanh"), Normalize()]
    params = {"1": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    inner = np.tanh(np.array([0.6, 0.8]) @ kernel + bias)
    np.testing.assert_allclose(apply_head(modules, params, jnp.asarray(x))[0], inner / np.linalg.norm(inner), rtol=1e-6)
