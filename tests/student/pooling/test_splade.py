"""SPLADE against sentence-transformers on a masked language model of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.student.encoders import masked_lm
from jdistill.student.pooling import Splade, pool
from tests.student.pooling.inputs import ENCODER, MASKS, encoder_parameters, hidden, padded, value_and_gradient

WORDS = "embeddings.word_embeddings.weight"


def _masked_lm(untied=False):
    """A head with random weights, and the tensors of its file."""
    import torch
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertOnlyMLMHead

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = BertOnlyMLMHead(BertConfig(vocab_size=ENCODER.vocab_size, hidden_size=ENCODER.width))
        head.predictions.decoder.bias = head.predictions.bias
        for parameter in head.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        words = torch.tensor(np.asarray(encoder_parameters()["embeddings"]["words"]))
        if not untied:
            head.predictions.decoder.weight = torch.nn.Parameter(words)
    tensors = {f"cls.{name}": tensor.detach().numpy() for name, tensor in head.state_dict().items()}
    return head, {**tensors, f"bert.{WORDS}": words.numpy()}


@pytest.mark.parity
@pytest.mark.parametrize(("strategy", "activation"), [("max", "relu"), ("max", "log1p_relu"), ("sum", "relu")])
@pytest.mark.parametrize(("held", "untied"), [(1 << 23, False), (150, True)])
def test_value_and_gradients_are_those_of_sentence_transformers(monkeypatch, strategy, activation, held, untied):
    torch = pytest.importorskip("torch")
    modules = pytest.importorskip("sentence_transformers.sparse_encoder.modules")
    monkeypatch.setattr("jdistill.student.pooling.splade.HELD", held)  # 150: five tokens at a time, and three are left
    head, tensors = _masked_lm(untied)
    cotangent = np.random.default_rng(1).normal(size=(len(MASKS), ENCODER.vocab_size)).astype(np.float32)
    states = torch.tensor(hidden(), requires_grad=True)
    theirs = modules.SpladePooling(pooling_strategy=strategy, activation_function=activation).train()
    features = {"token_embeddings": head(states), "attention_mask": torch.tensor(MASKS.astype(np.int64))}
    expected = theirs(features)["sentence_embedding"]
    expected.backward(torch.tensor(cotangent))

    pooling = Splade(strategy=strategy, activation=activation)
    params = pooling.from_pretrained(ENCODER, tensors, where="here")
    assert ("decoder" in params) == untied
    ours, (gradient, of_params, of_encoder) = value_and_gradient(
        lambda h, p, e: pool(h, padded(), [pooling], {"0": p}, ENCODER, e),
        cotangent,
        jnp.asarray(hidden()),
        params,
        encoder_parameters(),
    )
    np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(gradient, states.grad.numpy(), atol=2e-5)
    predictions = head.predictions
    words = of_params["decoder"] if untied else of_encoder["embeddings"]["words"]
    np.testing.assert_allclose(words, predictions.decoder.weight.grad.numpy(), atol=2e-5)
    np.testing.assert_allclose(of_params["bias"], predictions.bias.grad.numpy(), atol=2e-5)
    dense = predictions.transform.dense.weight.grad.numpy().T
    np.testing.assert_allclose(of_params["dense"]["kernel"], dense, atol=2e-5)
    norm = predictions.transform.LayerNorm.weight.grad.numpy()
    np.testing.assert_allclose(of_params["norm"]["scale"], norm, atol=2e-5)


def test_a_model_without_the_head_is_refused_unless_a_random_one_is_wanted():
    tensors = {f"bert.{WORDS}": np.zeros((23, 8), np.float32)}
    with pytest.raises(UserError, match=r"has no cls.*random_head: true"):
        Splade().from_pretrained(ENCODER, tensors, where="here")
    assert Splade(random_head=True).from_pretrained(ENCODER, tensors, where="here") is None


@pytest.mark.parametrize("untied", [False, True])
def test_what_is_written_is_the_whole_head_of_transformers(untied):
    torch = pytest.importorskip("torch")
    head, tensors = _masked_lm(untied)
    params = Splade().from_pretrained(ENCODER, tensors, where="here")
    written = masked_lm(ENCODER, where="here").write(params)
    again, _ = _masked_lm(untied)
    for parameter in again.parameters():
        parameter.data.zero_()
    found = {name.removeprefix("cls."): torch.tensor(value) for name, value in written.items()}
    again.load_state_dict(found, strict=untied)  # a tied decoder is not written, nor its bias
    if not untied:
        again.predictions.decoder.weight = torch.nn.Parameter(head.predictions.decoder.weight.detach())
    states = torch.tensor(hidden())
    torch.testing.assert_close(again(states), head(states))


def test_the_bias_is_read_under_the_decoders_name_too():
    _, tensors = _masked_lm()
    expected = tensors.pop("cls.predictions.bias")
    tensors["cls.predictions.decoder.bias"] = expected
    params = Splade().from_pretrained(ENCODER, tensors, where="here")
    np.testing.assert_array_equal(params["bias"], expected)
    del tensors["cls.predictions.decoder.bias"]
    with pytest.raises(UserError, match=r"only part of the head .* cls\.predictions\.decoder\.bias missing"):
        Splade().from_pretrained(ENCODER, tensors, where="here")


def test_a_head_with_numbers_that_are_not_finite_is_refused():
    _, tensors = _masked_lm()
    tensors["cls.predictions.bias"] = np.full(23, np.inf, np.float32)
    with pytest.raises(UserError, match=r"here: cls\.predictions\.bias: NaN or infinite"):
        Splade().from_pretrained(ENCODER, tensors, where="here")


def test_a_head_in_part_is_refused():
    tensors = {f"bert.{WORDS}": np.zeros((23, 8), np.float32), "cls.predictions.bias": np.zeros(23, np.float32)}
    with pytest.raises(
        UserError, match=r"only part.*transform\.dense\.weight, .*dense\.bias, .*LayerNorm\.weight, .*missing"
    ):
        Splade(random_head=True).from_pretrained(ENCODER, tensors, where="here")
