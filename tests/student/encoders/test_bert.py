"""BERT against transformers' BertModel on random weights; the weight table both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jdistill.config import UserError
from jdistill.student import weights
from jdistill.student.encoders import BertConfig
from jdistill.student.encoders.base import Computing
from jdistill.student.hf_folder import read_tensors
from jdistill.student.packing import rows_of
from jdistill.types import Tokens
from tests.tiny import VOCABULARY, tiny_bert_folder

IDS = np.random.default_rng(0).integers(5, len(VOCABULARY), size=(4, 9)).astype(np.int32)
RIGHT = np.arange(9)[None, :] < np.array([9, 5, 3, 1])[:, None]
LEFT = RIGHT[:, ::-1].copy()


def _load(folder, tensors=None, **changes):
    import json

    config = BertConfig.from_hf(json.loads((folder / "config.json").read_text()) | changes, where="config")
    module = config.make_module(Computing(jnp.dtype("float32"), dropout=0.1), rngs=nnx.Rngs(params=0))
    graph, state = nnx.split(module)
    params = weights.from_hf(
        config.weights(),
        read_tensors(folder) if tensors is None else tensors,
        nnx.to_pure_dict(state),
        where="folder",
        prefix=config.hf_prefix,
        ignored=config.hf_ignored,
    )
    return config, graph, params


def _run(graph, params, mask, *, layer=3, **kwargs):
    return nnx.merge(graph, params)(rows(IDS, mask), layers=(layer,), **kwargs)[layer]


def rows(ids, mask):
    return rows_of(Tokens(jnp.asarray(ids), jnp.asarray(mask)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def loaded(folder):
    return _load(folder)


@pytest.mark.parity
@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
def test_hidden_states_and_gradient_are_those_of_transformers(folder, loaded, mask):
    torch = pytest.importorskip("torch")
    from transformers import BertModel

    theirs = BertModel.from_pretrained(folder).eval()
    cotangent = np.random.default_rng(1).normal(size=(4, 9, 32)).astype(np.float32) * mask[:, :, None]
    out = theirs(torch.tensor(IDS), attention_mask=torch.tensor(mask.astype(np.int64))).last_hidden_state
    out.backward(torch.tensor(cotangent))

    _, graph, params = loaded
    ours, vjp = jax.vjp(lambda p: _run(graph, p, mask), params)
    np.testing.assert_allclose(np.asarray(ours)[mask], out.detach().numpy()[mask], atol=1e-5)
    gradient = weights.flatten(vjp(jnp.asarray(cotangent))[0])
    layer = theirs.encoder.layer[0]
    for path, parameter in {
        "layers.0.query.kernel": layer.attention.self.query.weight.grad.T,
        "layers.0.up.bias": layer.intermediate.dense.bias.grad,
        "embeddings.words": theirs.embeddings.word_embeddings.weight.grad,
        "embeddings.norm.scale": theirs.embeddings.LayerNorm.weight.grad,
    }.items():
        expected = parameter.numpy()
        # Rounding of the sum over all tokens: relative to the largest entry.
        np.testing.assert_allclose(gradient[path], expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parity
def test_every_layers_hidden_states_are_those_of_transformers(folder, loaded):
    torch = pytest.importorskip("torch")
    from transformers import BertModel

    theirs = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        mask = torch.tensor(RIGHT.astype(np.int64))
        expected = theirs(torch.tensor(IDS), attention_mask=mask, output_hidden_states=True).hidden_states
    _, graph, params = loaded
    ours = nnx.merge(graph, params)(rows(IDS, RIGHT), layers=(0, 1, 2, 3))
    for layer, hidden in ours.items():
        np.testing.assert_allclose(np.asarray(hidden)[RIGHT], expected[layer].numpy()[RIGHT], atol=1e-5)
    chosen = nnx.merge(graph, params)(rows(IDS, RIGHT), layers=(2, 0))
    assert set(chosen) == {0, 2}
    jax.tree.map(np.testing.assert_array_equal, chosen, {0: ours[0], 2: ours[2]})


@pytest.mark.parity
@pytest.mark.parametrize("act", ["gelu_new", "relu", "silu"])
def test_other_activations(folder, act):
    torch = pytest.importorskip("torch")
    from transformers import BertModel

    theirs = BertModel.from_pretrained(folder, hidden_act=act).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS), attention_mask=torch.tensor(RIGHT.astype(np.int64))).last_hidden_state
    _, graph, params = _load(folder, hidden_act=act)
    np.testing.assert_allclose(np.asarray(_run(graph, params, RIGHT))[RIGHT], expected.numpy()[RIGHT], atol=1e-5)


def test_padding_changes_nothing(loaded):
    _, graph, params = loaded
    whole = _run(graph, params, RIGHT)
    alone = nnx.merge(graph, params)(rows(IDS[1:2, :5], np.ones((1, 5), bool)), layers=(3,))[3]
    np.testing.assert_allclose(whole[1:2, :5], alone, atol=1e-5)


def test_round_trip_gives_the_same_tensors(folder, loaded):
    config, _, params = loaded
    theirs = {key: value for key, value in read_tensors(folder).items() if not key.startswith("pooler")}
    ours = weights.to_hf(config.weights(), params)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
    assert BertConfig.from_hf(config.to_hf(), where="again") == config


def test_prefix_is_accepted(folder, loaded):
    prefixed = {f"bert.{key}": value for key, value in read_tensors(folder).items()}
    prefixed |= {"cls.predictions.bias": np.zeros(1)}
    _, _, params = _load(folder, prefixed)
    jax.tree.map(np.testing.assert_array_equal, params, loaded[2])


def test_every_misfit_is_told_at_once(folder):
    tensors = dict(read_tensors(folder))
    tensors["encoder.layer.0.attention.self.extra.weight"] = np.zeros(1, np.float32)
    tensors["foreign"] = np.zeros(1, np.float32)
    del tensors["embeddings.LayerNorm.bias"], tensors["encoder.layer.2.output.dense.weight"]
    tensors["encoder.layer.1.intermediate.dense.bias"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        _load(folder, tensors)
    for part in ("2 tensors that", "extra", "foreign", "2 tensors missing", "LayerNorm.bias", "layer.2.output", "(3,)"):
        assert part in str(error.value)


def test_keep_layers_runs_only_these(loaded):
    config, _, params = loaded
    small, kept = config.keep_layers(params, [2, 0])
    assert isinstance(small, BertConfig)
    assert small.num_hidden_layers == 2
    np.testing.assert_array_equal(kept["layers"]["0"]["up"]["kernel"], params["layers"]["2"]["up"]["kernel"])
    assert set(kept["layers"]) == {"0", "1"}
    with pytest.raises(UserError, match="3 layers"):
        config.keep_layers(params, [3])


def test_dropout_needs_a_key_and_follows_it(loaded):
    _, graph, params = loaded
    plain = _run(graph, params, RIGHT)
    one, again, other = (_run(graph, params, RIGHT, dropout_key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)


def test_unsupported_variants_are_refused():
    with pytest.raises(UserError, match="relative"):
        BertConfig.from_hf({"position_embedding_type": "relative_key"}, where="config.json")
    with pytest.raises(UserError, match="quick_gelu"):
        BertConfig.from_hf({"hidden_act": "quick_gelu"}, where="config.json")


def test_bfloat16_stays_near_float32(loaded):
    config, _, params = loaded
    module = config.make_module(Computing(jnp.dtype("bfloat16")), rngs=nnx.Rngs(params=0))
    hidden = _run(nnx.split(module)[0], params, RIGHT)
    assert hidden.dtype == jnp.bfloat16
    exact = np.asarray(_run(loaded[1], params, RIGHT))[RIGHT]
    np.testing.assert_allclose(np.asarray(hidden, np.float32)[RIGHT], exact, atol=0.15)
