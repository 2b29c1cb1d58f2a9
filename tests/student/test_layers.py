"""Layers against float64 NumPy and, where torch has a word, against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.layers import (
    ACTIVATIONS,
    dense,
    dropout,
    gated,
    gelu,
    keys,
    layer_norm,
    lookup,
    rms_norm,
)


def test_dense_takes_any_rank_with_the_gradient_of_the_formula():
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    g = rng.normal(size=(2, 3, 5))
    args = [jnp.asarray(a, jnp.float32) for a in (x, w, b)]
    value, vjp = jax.vjp(dense, *args)
    np.testing.assert_allclose(value, x @ w + b, atol=1e-5)
    dx, dw, db = vjp(jnp.asarray(g, jnp.float32))
    np.testing.assert_allclose(dx, g @ w.T, atol=1e-5)
    np.testing.assert_allclose(dw, np.einsum("nli,nlo->io", x, g), atol=1e-5)
    np.testing.assert_allclose(db, g.sum((0, 1)), atol=1e-5)


def test_layer_norm_is_that_of_the_formula():
    x = np.random.default_rng(0).normal(3, 2, size=(2, 3, 8))
    scale, bias = np.arange(8.0), np.ones(8)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
    ours = layer_norm(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)), 1e-5)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 8), (5, 8), (8,)])
def test_gradient_of_layer_norm_is_that_of_autodiff(shape):
    def plain(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        row = (1,) * (x.ndim - 1) + (-1,)
        normed = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return normed * scale.reshape(row) + bias.reshape(row)

    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, 8, 8)]
    cotangent = jnp.asarray(rng.normal(size=shape), jnp.float32)
    ours = jax.vjp(lambda *a: layer_norm(*a, 1e-5), *args)[1](cotangent)
    for one, other in zip(ours, jax.vjp(plain, *args)[1](cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_layer_norm_in_half_precision_keeps_dtypes():
    x, scale, bias = jnp.ones((2, 4), jnp.bfloat16), jnp.ones(4, jnp.float32), jnp.ones(4, jnp.float32)
    value, vjp = jax.vjp(lambda *a: layer_norm(*a, 1e-5), x, scale, bias)
    assert value.dtype == jnp.bfloat16
    assert [g.dtype for g in vjp(value)] == [jnp.bfloat16, jnp.float32, jnp.float32]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_rms_norm_is_that_of_the_formula_and_rounds_once(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(2, 3, 8)), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    expected = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-5) * np.arange(8.0)
    value, vjp = jax.vjp(lambda x, scale: rms_norm(x.astype(dtype), scale, 1e-5), x, jnp.arange(8.0))
    assert value.dtype == dtype
    np.testing.assert_allclose(np.asarray(value, np.float64), expected, rtol=1e-6 if dtype == jnp.float32 else 2**-8)
    assert [g.dtype for g in vjp(value)] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parity
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name):
    torch = pytest.importorskip("torch")
    from transformers.activations import ACT2FN

    x = np.linspace(-6, 6, 241, dtype=np.float32)
    theirs_in = torch.tensor(x, requires_grad=True)
    theirs = ACT2FN[name](theirs_in)
    theirs.sum().backward()
    ours, vjp = jax.vjp(ACTIVATIONS[name], jnp.asarray(x))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-6)
    away = x != 0  # relu's gradient there is a convention
    np.testing.assert_allclose(vjp(jnp.ones_like(ours))[0][away], theirs_in.grad.numpy()[away], atol=1e-5)


def test_gelu_in_half_precision_is_the_exact_one_rounded():
    x = jnp.linspace(-4, 4, 101, dtype=jnp.bfloat16)
    exact = np.asarray(gelu(x.astype(jnp.float32)))
    assert gelu(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gelu(x), np.float32), exact, rtol=2**-8, atol=1e-6)
    assert jax.grad(lambda v: gelu(v).sum())(x).dtype == jnp.bfloat16


def test_an_id_outside_the_table_gives_nan():
    assert np.isnan(lookup(jnp.ones((3, 2)), jnp.array([3]), jnp.dtype("float32"))).all()


def test_dropout_zeroes_the_share_and_keeps_the_mean():
    x = jnp.ones((100, 100), jnp.float32)
    dropped = dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_allclose((np.asarray(dropped) == 0).mean(), 0.25, atol=0.02)
    np.testing.assert_allclose(dropped.mean(), 1.0, atol=0.02)


def test_without_key_or_rate_nothing_is_dropped():
    x = jnp.ones((2, 2), jnp.float32)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x
    assert keys(None, 2) == [None, None]


@pytest.mark.parametrize("name", ["gelu", "silu", "gelu_pytorch_tanh"])
def test_gated_is_the_product_with_the_gradient_of_autodiff(name):
    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2)]
    cotangent = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    value, vjp = jax.vjp(lambda gate, up: gated(gate, up, name), *args)
    expected, plain = jax.vjp(lambda gate, up: ACTIVATIONS[name](gate) * up, *args)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for one, other in zip(vjp(cotangent), plain(cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_gated_rounds_once_and_keeps_its_arguments_only():
    rng = np.random.default_rng(0)
    gate, up = (jnp.asarray(rng.normal(size=(64,)), jnp.bfloat16) for _ in range(2))
    value, vjp = jax.vjp(lambda gate, up: gated(gate, up, "silu"), gate, up)
    exact = gated(gate.astype(jnp.float32), up.astype(jnp.float32), "silu")
    np.testing.assert_array_equal(value, exact.astype(jnp.bfloat16))
    kept = [x for x in jax.tree.leaves(vjp) if x.shape == (64,)]
    assert [x.dtype for x in kept] == [jnp.bfloat16] * 2
    assert [x.dtype for x in vjp(value)] == [jnp.bfloat16] * 2
