"""Every pooling against sentence-transformers, value and gradient, and against a plain loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.encoders import BertConfig
from jdistill.student.packing import PaddedRows
from jdistill.student.pooling import MODES
from jdistill.student.pooling import pool as pool_rows
from jdistill.types import Tokens

MASKS = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]], bool
)
PADDING = np.zeros((1, 5), bool)
COMBINATIONS = [[mode] for mode in MODES] + [["max", "cls", "mean"], ["lasttoken", "mean_sqrt_len", "weightedmean"]]


def pool(hidden, mask, modes, prompts=None):
    rows = PaddedRows(Tokens(jnp.zeros(mask.shape, jnp.int32), mask))
    return pool_rows(hidden, rows, modes, {}, BertConfig(), {}, prompts)


def _inputs(masks):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(*masks.shape, 3)).astype(np.float32)
    return hidden, rng.normal(size=(len(masks), 3)).astype(np.float32)


def _loop(hidden, mask, mode):
    """Float64, one row at a time, from the definitions."""
    rows = []
    for h, m in zip(hidden.astype(np.float64), mask, strict=True):
        real = h[m]
        weights = np.flatnonzero(m)[:, None] - np.flatnonzero(m)[0] + 1.0
        rows.append(
            {
                "mean": lambda real=real: real.mean(0),
                "cls": lambda real=real: real[0],
                "max": lambda real=real: real.max(0),
                "mean_sqrt_len": lambda real=real: real.sum(0) / np.sqrt(len(real)),
                "weightedmean": lambda real=real, w=weights: (real * w).sum(0) / w.sum(),
                "lasttoken": lambda real=real: real[-1],
            }[mode]()
        )
    return np.stack(rows)


@pytest.mark.parametrize("mode", MODES)
def test_value_is_that_of_the_definition(mode):
    hidden, _ = _inputs(MASKS)
    ours = pool(jnp.asarray(hidden), jnp.asarray(MASKS), [mode])
    np.testing.assert_allclose(ours, _loop(hidden, MASKS, mode), atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("modes", "masks"),
    list(itertools.product(COMBINATIONS, [MASKS, PADDING])),
    ids=lambda x: "-".join(x) if isinstance(x, list) else ("padding" if not x.any() else "rows"),
)
@pytest.mark.parametrize("prompt", [None, 1, 2])
def test_value_and_gradient_are_those_of_sentence_transformers(modes, masks, prompt):
    """With a prompt, of which some texts have nothing else, as well as without."""
    torch = pytest.importorskip("torch")
    from sentence_transformers.sentence_transformer.modules import Pooling

    hidden, cotangent = _inputs(masks)
    cotangent = np.concatenate([cotangent] * len(modes), axis=1)
    names = tuple("mean_sqrt_len_tokens" if mode == "mean_sqrt_len" else mode for mode in modes)
    theirs_in = torch.tensor(hidden, requires_grad=True)
    features = {"token_embeddings": theirs_in, "attention_mask": torch.tensor(masks.astype(np.int64))}
    features |= {} if prompt is None else {"prompt_length": prompt}
    theirs = Pooling(3, pooling_mode=names, include_prompt=prompt is None)(features)["sentence_embedding"]
    theirs.backward(torch.tensor(cotangent))

    prompts = None if prompt is None else jnp.full(len(masks), prompt, jnp.int32)
    ours, vjp = jax.vjp(lambda h: pool(h, jnp.asarray(masks), modes, prompts), jnp.asarray(hidden))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(vjp(jnp.asarray(cotangent))[0], theirs_in.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_is_pooled_in_float32(mode):
    hidden = jnp.full((1, 300, 2), 1.0078125, jnp.bfloat16)
    pooled = pool(hidden, jnp.ones((1, 300), bool), [mode])
    assert pooled.dtype == jnp.float32
    expected = np.sqrt(300) * 1.0078125 if mode == "mean_sqrt_len" else 1.0078125
    np.testing.assert_allclose(pooled, np.full((1, 2), expected), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_padding_changes_nothing(mode):
    hidden, _ = _inputs(MASKS[:1])
    wide = np.concatenate([hidden, 99 * np.ones((1, 2, 3), np.float32)], axis=1)
    mask = np.array([[1, 1, 1, 1, 1, 0, 0]], bool)
    np.testing.assert_allclose(
        pool(jnp.asarray(wide), jnp.asarray(mask), [mode]),
        pool(jnp.asarray(hidden), jnp.asarray(MASKS[:1]), [mode]),
        atol=1e-6,
    )
