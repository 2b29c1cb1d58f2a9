"""Poolings with parameters: against the torch module that an export brings, packed, and as they start."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jdistill.config import UserError
from jdistill.student import weights
from jdistill.student.encoders import BertConfig
from jdistill.student.packing import PaddedRows
from jdistill.student.pooling import Activation, LatentAttention, SparseVocabulary, Splade, pool
from jdistill.student.pooling.base import OWN_FILE
from jdistill.types import Tokens
from tests.student.pooling.inputs import (
    ENCODER,
    IDS,
    MASKS,
    encoder_parameters,
    hidden,
    packed,
    padded,
    parameters,
    value_and_gradient,
)

POOLINGS = [
    Activation(),
    Activation(bias=False),
    LatentAttention(latents=5, heads=2),
    LatentAttention(latents=3, heads=2, attention_width=6, inner=1),
    SparseVocabulary(excluded=[0, 1, 2]),
    SparseVocabulary(bias=False, excluded=[]),
]
LOCAL = [*POOLINGS, Splade(), Splade(strategy="sum", activation="log1p_relu")]


def _apply(pooling, rows, values, params, encoder=None):
    return pool(values, rows, [pooling], {"0": params}, ENCODER, encoder or encoder_parameters())


def _torch_module(pooling, params):
    import torch

    spec = importlib.util.spec_from_file_location("jdistill_pooling", OWN_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    built = getattr(module, pooling.module)(**pooling.to_module(ENCODER))
    tensors = weights.to_hf(pooling.weights(), params)
    built.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})
    return built


@pytest.mark.optimized
@pytest.mark.parity
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_value_and_gradients_are_those_of_the_exported_module(pooling):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    params = parameters(pooling)
    theirs = _torch_module(pooling, params)
    assert theirs.get_embedding_dimension() == pooling.width(ENCODER)
    cotangent = np.random.default_rng(1).normal(size=(len(MASKS), pooling.width(ENCODER))).astype(np.float32)
    states = torch.tensor(hidden(), requires_grad=True)
    features = {
        "token_embeddings": states,
        "attention_mask": torch.tensor(MASKS.astype(np.int64)),
        "input_ids": torch.tensor(IDS),
    }
    expected = theirs(features)["sentence_embedding"]
    expected.backward(torch.tensor(cotangent))
    expected_params = weights.from_hf(
        pooling.weights(), {k: v.grad.numpy() for k, v in theirs.named_parameters()}, params, where="torch"
    )

    ours, (states_gradient, params_gradient) = value_and_gradient(
        lambda h, p: _apply(pooling, padded(), h, p), cotangent, jnp.asarray(hidden()), params
    )
    np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(states_gradient, states.grad.numpy(), atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), params_gradient, expected_params)


@pytest.mark.parity
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_the_exported_module_takes_texts_without_padding(pooling):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    theirs, lengths = _torch_module(pooling, parameters(pooling)), MASKS[:4].sum(1)
    padded_features = {
        "token_embeddings": torch.tensor(hidden()[:4]),
        "attention_mask": torch.tensor(MASKS[:4].astype(np.int64)),
        "input_ids": torch.tensor(IDS[:4]),
    }
    flat_features = {
        "token_embeddings": torch.tensor(hidden()[:4][MASKS[:4]])[None],
        "input_ids": torch.tensor(IDS[:4][MASKS[:4]])[None],
        "cu_seq_lens_q": torch.tensor([0, *lengths.cumsum()]),
    }
    with torch.inference_mode():
        expected = theirs(padded_features)["sentence_embedding"]
        torch.testing.assert_close(theirs(flat_features)["sentence_embedding"], expected)


@pytest.mark.parametrize("pooling", LOCAL, ids=str)
def test_packed_equals_padded_in_value_and_gradient(pooling):
    params, encoder, right = parameters(pooling), encoder_parameters(), np.array([0, 1, 3])
    cotangent = np.random.default_rng(3).normal(size=(len(MASKS), pooling.width(ENCODER)))
    cotangent[[i for i in range(len(MASKS)) if i not in right]] = 0

    def of_padded(values, params, encoder):
        return _apply(pooling, padded(), values, params, encoder)

    def of_packed(values, params, encoder):
        rows, laid = packed(values)
        return _apply(pooling, rows, laid, params, encoder)

    values = jnp.asarray(hidden())
    expected, expected_gradient = value_and_gradient(of_padded, cotangent, values, params, encoder)
    ours, gradient = value_and_gradient(of_packed, cotangent[right], values, params, encoder)
    np.testing.assert_allclose(ours, expected[right], atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), gradient, expected_gradient)


@pytest.mark.parametrize("pooling", LOCAL, ids=str)
def test_a_text_without_tokens_gives_zeros_and_no_gradient(pooling):
    params = parameters(pooling)
    ones = np.ones((len(MASKS), pooling.width(ENCODER)))
    ours, (gradient,) = value_and_gradient(lambda h: _apply(pooling, padded(), h, params), ones, jnp.asarray(hidden()))
    np.testing.assert_array_equal(ours[-1], 0)
    gradient = np.asarray(gradient)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~MASKS], 0)


@pytest.mark.parametrize("pooling", [Activation(), LatentAttention(latents=4, heads=2)], ids=str)
def test_training_starts_from_the_mean(pooling):
    params = pooling.init(ENCODER, jax.random.key(0))
    mean = pool(jnp.asarray(hidden()), padded(), ["mean"], {}, ENCODER, {})
    ours, gradient = value_and_gradient(
        lambda p: _apply(pooling, padded(), jnp.asarray(hidden()), p), np.ones(mean.shape), params
    )
    np.testing.assert_allclose(ours, mean, atol=1e-6)
    assert float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(gradient))) > 0


def test_sparse_vocabulary_starts_from_the_set_of_tokens():
    pooling = SparseVocabulary().with_special_tokens([2, 0, 1])
    assert pooling.excluded == [0, 1, 2]
    params = pooling.init(ENCODER, jax.random.key(0))
    ours = np.asarray(_apply(pooling, padded(), jnp.asarray(hidden()), params))
    for row, ids, mask in zip(ours, IDS, MASKS, strict=True):
        assert set(np.flatnonzero(row)) == {token for token in ids[mask] if token > 2}
        assert set(row) <= {0.0, 1.0}
    assert SparseVocabulary(excluded=[]).with_special_tokens([1]).excluded == []


@pytest.mark.parametrize("pooling", [Activation(bias=False), LatentAttention(attention_width=4, heads=2), Splade()])
def test_a_module_is_read_back_from_its_configuration(pooling):
    assert type(pooling).from_module(pooling.to_module(ENCODER)) == pooling


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match="5 heads"):
        LatentAttention(heads=5).init(ENCODER, jax.random.key(0))
    with pytest.raises(ValueError, match="is not divisible"):
        LatentAttention(heads=4, attention_width=6)


@pytest.mark.parametrize("pooling", [SparseVocabulary(excluded=[]), Splade(), Splade(strategy="sum")], ids=str)
def test_scores_of_all_tokens_are_never_held(pooling, monkeypatch):
    """Memory of value and gradient stays far below texts x tokens x vocabulary."""
    monkeypatch.setattr("jdistill.student.pooling.splade.HELD", 1 << 16)
    n, length, encoder = 4, 64, BertConfig(vocab_size=20_000, hidden_size=8, num_attention_heads=2)
    words = jnp.zeros((encoder.vocab_size, 8))
    params = pooling.init(encoder, jax.random.key(0))

    def value(h, params, words, ids, mask):
        rows = PaddedRows(Tokens(ids, mask))
        return jnp.sum(pool(h, rows, [pooling], {"0": params}, encoder, {"embeddings": {"words": words}}) ** 2)

    arguments = (
        jnp.zeros((n, length, 8)),
        params,
        words,
        jnp.zeros((n, length), jnp.int32),
        jnp.ones((n, length), bool),
    )
    compiled = jax.jit(jax.grad(value, argnums=(0, 1, 2))).lower(*arguments).compile()
    everything = n * length * encoder.vocab_size * 4
    assert compiled.memory_analysis().temp_size_in_bytes < everything / 4


@pytest.mark.parametrize("pooling", LOCAL, ids=str)
def test_devices_need_nothing_of_each_other(pooling):
    """A vector of the vocabulary is wide: XLA must not gather the batch of them, as it does for a scatter over all."""
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
    shared, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    n, length = 2 * len(jax.devices()), 4

    def value(h, params, words, ids, mask):
        rows = PaddedRows(Tokens(ids, mask))
        pooled = pool(h, rows, [pooling], {"0": params}, ENCODER, {"embeddings": {"words": words}})
        return jnp.sum(jax.lax.with_sharding_constraint(pooled, split) ** 2)

    def shape(size, dtype, sharding):
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    params = jax.tree.map(lambda x: shape(x.shape, x.dtype, shared), parameters(pooling))
    compiled = jax.jit(jax.grad(value)).lower(
        shape((n, length, ENCODER.width), jnp.float32, split),
        params,
        shape((ENCODER.vocab_size, ENCODER.width), jnp.float32, shared),
        shape((n, length), jnp.int32, split),
        shape((n, length), jnp.bool_, split),
    )
    text = compiled.compile().as_text()
    assert not re.findall(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)\(", text)
