"""Normalisation and dense layers behind the pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.student import weights
from jdistill.student.head import (
    HEAD_ACTIVATIONS,
    Dense,
    LayerNorm,
    Normalize,
    apply_head,
    head_width,
    init_head,
    normalize,
    with_widths,
)
from jdistill.student.hf_folder.modules import dense, layer_norm


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


@pytest.mark.parity
@pytest.mark.parametrize("activation", HEAD_ACTIVATIONS)
@pytest.mark.parametrize(("width", "residual", "bias"), [(5, False, True), (3, True, False), (5, True, True)])
def test_dense_is_that_of_sentence_transformers(activation, width, residual, bias):
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("sentence_transformers.base.modules.dense")
    module = Dense(out_features=width, bias=bias, residual=residual, activation=activation)
    params = module.init(3, jax.random.key(0))
    params = {k: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape) for k, x in params.items()}
    act = getattr(torch.nn, dense.ACTIVATION_CLASSES[activation].rpartition(".")[2])()
    theirs = modules.Dense(3, width, bias=bias, activation_function=act, use_residual=residual)
    rows = dense.rows(bias=bias, residual="residual" in params)
    theirs.load_state_dict({k: torch.tensor(x) for k, x in weights.to_hf(rows, params).items()})
    _assert_equal(module, params, theirs, rows, width)


@pytest.mark.parity
def test_layer_norm_is_that_of_sentence_transformers():
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("sentence_transformers.sentence_transformer.modules.layer_norm")
    params = {"scale": jnp.array([0.5, 1.0, -2.0]), "bias": jnp.array([0.1, 0.0, 0.3])}
    theirs = models.LayerNorm(3)
    theirs.load_state_dict({k: torch.tensor(x) for k, x in weights.to_hf(layer_norm.ROWS, params).items()})
    _assert_equal(LayerNorm(), params, theirs, layer_norm.ROWS, 3)


def _assert_equal(module, params, theirs, rows, width):
    import torch

    random = np.random.default_rng(0)
    x, cotangent = (random.normal(size=(4, n)).astype(np.float32) for n in (3, width))
    x_in = torch.tensor(x, requires_grad=True)
    expected = theirs({"sentence_embedding": x_in})["sentence_embedding"]
    expected.backward(torch.tensor(cotangent))
    ours, vjp = jax.vjp(jax.jit(module.__call__), jnp.asarray(x), params)
    x_gradient, gradient = vjp(jnp.asarray(cotangent))
    np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(x_gradient, x_in.grad.numpy(), atol=1e-5)
    expected_gradient = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        gradient,
        weights.from_hf(rows, expected_gradient, params, where="torch"),
    )


def test_widths_follow_from_what_stands_before():
    modules = [Dense(out_features=12), Normalize(), Dense(in_features=12, out_features=5), LayerNorm()]
    filled = with_widths(modules, 3, where="student.head")
    assert [m.in_features for m in filled if isinstance(m, Dense)] == [3, 12]
    assert head_width(modules, 3) == 5
    shapes = jax.tree.map(np.shape, init_head(modules, 3, jax.random.key(0)))
    assert shapes == {
        "0": {"kernel": (3, 12), "bias": (12,)},
        "2": {"kernel": (12, 5), "bias": (5,)},
        "3": {"scale": (5,), "bias": (5,)},
    }
    with pytest.raises(UserError, match="dense layer 0 has in_features 4, but its input has width 3"):
        with_widths([Dense(in_features=4, out_features=5)], 3, where="student.head")


def test_a_random_layer_to_a_wider_space_keeps_lengths_and_angles():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    module = Dense(out_features=12)
    y = np.asarray(module(jnp.asarray(x), module.init(3, jax.random.key(0))))
    np.testing.assert_allclose(y @ y.T, x @ x.T, atol=1e-5)
