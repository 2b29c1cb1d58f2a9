"""Attention against float64 NumPy, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.student.attention import CAUSAL, FULL, attention, attention_path, query_block
from jdistill.student.kernels import splash


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


@pytest.mark.parametrize(
    ("platform", "length", "head_dim", "dtype", "dropout", "path"),
    [
        ("cpu", 512, 64, "float32", 0.0, "xla"),
        ("tpu", 128, 64, "bfloat16", 0.0, "xla"),
        ("tpu", 256, 32, "bfloat16", 0.0, "splash"),
        ("tpu", 384, 64, "float32", 0.0, "splash"),
        ("tpu", 320, 64, "bfloat16", 0.0, "xla"),
        ("tpu", 512, 64, "bfloat16", 0.1, "xla"),
        ("cuda", 128, 32, "bfloat16", 0.0, "cudnn"),
        ("cuda", 64, 32, "bfloat16", 0.0, "xla"),
        ("cuda", 128, 32, "float32", 0.0, "xla"),
        ("cuda", 129, 32, "float16", 0.0, "xla"),
        ("cuda", 128, 36, "bfloat16", 0.0, "xla"),
        ("cuda", 128, 256, "bfloat16", 0.0, "xla"),
        ("cuda", 128, 32, "bfloat16", 0.1, "xla"),
        ("rocm", 512, 64, "bfloat16", 0.0, "xla"),
    ],
)
def test_the_path_follows_from_platform_and_shape(platform, length, head_dim, dtype, dropout, path):
    assert attention_path(platform, length, head_dim, dtype, dropout) == path
    assert attention_path(platform, length, head_dim, dtype, dropout, biased=True) == "xla"


PADDED = np.arange(256) < np.array([[256], [100]])
PACKED = np.array([[0] * 100 + [1] * 30 + [2] * 126, [0] * 200 + [1] * 40 + [-1] * 16], np.int32)


def _general_oracle(q, k, v, seen, bias, scale):
    """Float64, `seen [n l l]`, one head of keys for several of queries."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("nihd,njhd->nhij", q, k) * scale + bias[None]
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * seen[:, None]
    return np.einsum("nhij,njhd->nihd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("window", [FULL, CAUSAL, (1, 1), (2, 0)], ids=str)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_windows_shared_keys_bias_and_scale(window, heads):
    rng = np.random.default_rng(2)
    q, k, v = (rng.normal(size=(2, 6, h, 3)).astype(np.float32) for h in (4, heads, heads))
    bias = rng.normal(size=(4, 6, 6)).astype(np.float32)
    texts = np.array([[0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1]], np.int32)
    before, after = (9 if side is None else side for side in window)
    distance = np.arange(6)[None, :] - np.arange(6)[:, None]
    near = (distance >= -before) & (distance <= after)
    seen = near[None] & (texts[:, :, None] == texts[:, None, :])
    ours = attention(*map(jnp.asarray, (q, k, v, texts)), window=window, bias=jnp.asarray(bias), scale=0.3)
    np.testing.assert_allclose(ours, _general_oracle(q, k, v, seen, bias, 0.3), atol=1e-6)


@pytest.mark.parametrize("window", [FULL, CAUSAL, (40, 40)], ids=str)
@pytest.mark.parametrize("places", [PADDED, PACKED], ids=["padded", "packed"])
def test_splash_attention_is_the_same_attention(places, window):
    """The TPU kernel, interpreted: value and gradient, and no text sees another or padding."""
    inputs, places = _inputs(l=256, d=8), jnp.asarray(places)
    real = (places if places.dtype == bool else places >= 0)[:, :, None, None]
    segments = (jnp.ones_like(places, jnp.int32) if places.dtype == bool else places, places.astype(jnp.int32))

    def weighted(function):
        def loss(*x):
            out = jnp.where(real, function(*x), 0.0)
            return (out**2).sum(), out

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)

    (_, ours), gradients = weighted(lambda *x: splash(*x, *segments, scale=8**-0.5, window=window, interpret=True))
    (_, theirs), expected = weighted(lambda *x: attention(*x, places, window=window, kernel="xla"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_splash_attention_of_a_row_without_keys_is_finite():
    nothing = jnp.zeros((2, 128), jnp.int32)
    value = splash(*_inputs(l=128, d=8), nothing + 1, nothing, scale=1.0, window=FULL, interpret=True)
    assert np.isfinite(value).all()


def test_a_length_that_splash_attention_cannot_take_is_refused():
    with pytest.raises(UserError, match=r"student\.attention=splash.*multiple of 128 tokens, but these have 64"):
        attention(*_inputs(l=64), jnp.ones((2, 64), bool), kernel="splash")


def test_numbered_places_attend_their_own_number():
    q, k, v = _inputs(l=6)
    whole = attention(q, k, v, jnp.array([[3, 3, 3, 7, 7, -1]] * 2))
    alone = attention(q[:, :3], k[:, :3], v[:, :3], jnp.ones((2, 3), bool))
    np.testing.assert_allclose(whole[:, :3], alone, atol=1e-6)


PLACES = {
    "padded right": np.arange(11) < np.array([[11], [6]]),
    "padded left": np.arange(11) >= np.array([[0], [6]]),
    "packed": np.array([[0, 0, 0, 0, 1, 1, 1, 2, 2, -1, -1], [3] * 11], np.int32),
}


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("window", [FULL, CAUSAL, (2, 2)], ids=str)
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
def test_blocks_of_queries_are_the_same_attention(places, window, biased, monkeypatch):
    """Value and gradient at every place that holds a token; 11 places do not divide into blocks of 4."""
    inputs, places = _inputs(l=11), jnp.asarray(places)
    real = (places if places.dtype == bool else places >= 0)[:, :, None, None]
    bias = jnp.asarray(np.random.default_rng(3).normal(size=(2, 11, 11)), jnp.float32) if biased else None

    def weighted():
        def loss(q, k, v, bias):
            out = jnp.where(real, attention(q, k, v, places, window=window, bias=bias), 0.0)
            return (out**2).sum(), out

        return jax.value_and_grad(loss, argnums=(0, 1, 2, *((3,) if biased else ())), has_aux=True)(*inputs, bias)

    (_, whole), expected = weighted()
    monkeypatch.setattr("jdistill.student.attention.SCORES_BYTES", 0)
    monkeypatch.setattr("jdistill.student.attention.BLOCK_BYTES", 4 * 2 * 2 * 11 * 4)
    assert query_block(2, 2, 11) == 4
    (_, blocks), gradients = weighted()
    np.testing.assert_allclose(blocks, whole, atol=1e-6)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize(
    ("rows", "heads", "length", "block"),
    [(4096, 16, 512, None), (1, 16, 2048, None), (1, 16, 5120, 128), (64, 12, 5120, 4), (4096, 16, 8192, 1)],
)
def test_only_rows_whose_scores_do_not_fit_go_in_blocks(rows, heads, length, block):
    assert query_block(rows, heads, length) == block


@pytest.mark.parametrize("window", [FULL, (64, 64)], ids=str)
def test_scores_of_a_long_row_are_never_held(window):
    """By the compiler's account: all scores of 8,192 tokens and 12 heads would take 3.2 GB."""
    form = jax.ShapeDtypeStruct((1, 8192, 12, 64), jnp.float32)
    places = jax.ShapeDtypeStruct((1, 8192), jnp.bool_)

    def loss(q, k, v, places):
        return (attention(q, k, v, places, window=window) ** 2).sum()

    for function in (loss, jax.grad(loss, argnums=(0, 1, 2))):
        needed = jax.jit(function).lower(form, form, form, places).compile().memory_analysis()
        assert needed.temp_size_in_bytes < 600 * 2**20
