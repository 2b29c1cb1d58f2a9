"""Attention against float64 NumPy, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.student.attention import attention


def _inputs(n=2, l=4, h=2, d=3, dtype=np.float32):  # noqa: E741
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(n, l, h, d)).astype(dtype)) for _ in range(3)]


def _oracle(q, k, v, mask):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for n, i, h in np.ndindex(q.shape[:3]):
        scores = np.array([q[n, i, h] @ k[n, j, h] for j in range(k.shape[1])]) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores[mask[n]].max()) * mask[n]
        out[n, i, h] = (weights / weights.sum()) @ v[n, :, h]
    return out


def test_value_is_that_of_the_formula():
    q, k, v = _inputs()
    mask = np.array([[1, 1, 1, 1], [0, 1, 1, 0]], bool)
    np.testing.assert_allclose(attention(q, k, v, jnp.asarray(mask)), _oracle(q, k, v, mask), atol=1e-6)


def test_gradient_is_that_of_autodiff():
    def plain(q, k, v):
        scores = jnp.einsum("nlhd,nmhd->nhlm", q, k) / np.sqrt(3)
        weights = jnp.where(mask[:, None, None, :], jnp.exp(scores), 0.0)
        return jnp.einsum("nhlm,nmhd->nlhd", weights / weights.sum(-1, keepdims=True), v)

    q, k, v = _inputs()
    mask = jnp.array([[True] * 4, [False, True, True, False]])
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)
    ours = jax.vjp(lambda *x: attention(*x, mask), q, k, v)[1](cotangent)
    for one, other in zip(ours, jax.vjp(plain, q, k, v)[1](cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_masked_keys_have_no_influence_and_no_gradient():
    q, k, v = _inputs()
    mask = jnp.array([[True, True, False, False]] * 2)
    gradients = jax.grad(lambda *x: (attention(*x, mask) ** 2).sum(), argnums=(1, 2))(q, k, v)
    for gradient in gradients:
        assert (np.asarray(gradient)[:, 2:] == 0).all()
        assert (np.asarray(gradient)[:, :2] != 0).any()


def test_a_row_without_keys_is_finite():
    q, k, v = _inputs()
    mask = jnp.zeros((2, 4), bool)
    value, vjp = jax.vjp(lambda *x: attention(*x, mask), q, k, v)
    assert np.isfinite(value).all()
    assert all(np.isfinite(g).all() for g in vjp(jnp.ones_like(value)))


def test_softmax_runs_in_float32_and_output_keeps_the_dtype():
    q, k, v = (x.astype(jnp.bfloat16) for x in _inputs(l=64))
    mask = np.ones((2, 64), bool)
    out = attention(q, k, v, jnp.asarray(mask))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), _oracle(q, k, v, mask), atol=0.01)


def test_dropout_drops_weights_and_keeps_the_mean():
    q, k, _ = _inputs(l=64)
    v = jnp.ones((2, 64, 2, 3), jnp.float32)
    mask = jnp.ones((2, 64), bool)
    out = attention(q, k, v, mask, dropout_rate=0.5, dropout_key=jax.random.key(0))
    assert np.std(out) > 0.05
    np.testing.assert_allclose(np.mean(out), 1.0, atol=0.05)
