"""What an encoder gives on a batch, what transformers gives, and how far apart they are."""

import copy
import functools
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jdistill.loader.packing import packed_rows, places
from jdistill.student import weights
from jdistill.student.encoders import MODEL_TYPES, EncoderConfig
from jdistill.student.encoders.base import Computing
from jdistill.student.packing import rows_of
from jdistill.types import Tokens
from tests import recording
from tests.student.encoders.cases import CASES

TORCH = importlib.util.find_spec("torch") is not None

RECORDED = Path(__file__).with_name("recorded.npz")
"""Written by `python -m tests.student.recorded --write`."""

Side = Literal["right", "left"]
SIDES: tuple[Side, ...] = ("right", "left")

LENGTHS = np.array([12, 7, 3, 1])
PADDED, CAPACITY = 12, 16

GRID = 256
"""Large weights are multiples of 1 / GRID, so that a recording of them is small."""

Draw = Literal["large", "initial"]
"""Random weights: five times as large as usual, so that a wrong one shows; or those that transformers begins with."""
DRAWS: tuple[Draw, ...] = ("initial", "large")

BFLOAT16 = 1e-2
"""Largest relative difference of bfloat16 from float32 in hidden states, with initial weights. Gradients, and all with
large weights, may lose what transformers loses, where it is more."""

PACKED = 1e-5
"""Largest relative difference of packed rows from padded ones, and of scanned layers from unrolled ones."""

OLDER_CODE = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
FAST_TO_COMPILE: Any = {"xla_backend_optimization_level": 0, **OLDER_CODE} if jax.default_backend() == "cpu" else {}
"""Speed is not at stake: a program runs a few times."""


class Result(NamedTuple):
    hidden: np.ndarray
    """`[depth + 1, n, l, d]`: the embeddings and each layer's hidden states, 0 where there is no token."""
    gradient: dict[str, np.ndarray]
    """Of the hidden states times `cotangents`, summed; by Hugging Face's names."""


class Difference(NamedTuple):
    value: float
    gradient: float


def mask_of(side: Side) -> np.ndarray:
    """`[n, l]`."""
    mask = np.arange(PADDED) < LENGTHS[:, None]
    return mask if side == "right" else mask[:, ::-1].copy()


def tokens_of(label: str, side: Side) -> Tokens:
    """Random texts; the padding token where there is none."""
    vocabulary = CASES[label].vocabulary()
    mask = mask_of(side)
    ids = np.random.default_rng(0).integers(len(set(vocabulary.special.listed)), vocabulary.size, mask.shape)
    pad = vocabulary.ids["pad_token_id"]
    return Tokens(jnp.asarray(np.where(mask, ids, pad), jnp.int32), jnp.asarray(mask))


def cotangents_of(label: str, side: Side) -> np.ndarray:
    """`[depth + 1, n, l, d]`: random, so that every parameter has a gradient; 0 where there is no token."""
    config, mask = architecture(label), mask_of(side)
    random = np.random.default_rng(1).normal(size=(config.depth + 1, *mask.shape, config.width))
    return (random * mask[None, :, :, None]).astype(np.float32)


@functools.cache
def recorded() -> recording.Recording:
    """Configurations, weights, hidden states and gradients of transformers' modules."""
    return recording.read(RECORDED)


@functools.cache
def torch_model(label: str, draw: Draw = "large") -> Any:
    """Transformers' module with random weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    case = CASES[label]
    vocabulary = case.vocabulary()
    config = AutoConfig.for_model(**{"vocab_size": vocabulary.size, **vocabulary.ids, **case.hf})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config, attn_implementation="eager").eval()
        for parameter in model.parameters() if draw == "large" else ():
            noise = torch.randn_like(parameter)
            # Biases 0 and scales 1 would hide a swapped name.
            drawn = 0.1 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
            parameter.data = (drawn * GRID).round() / GRID
    return model


def config_json(label: str) -> dict[str, Any]:
    """The `config.json` that transformers writes; the recorded one where there is no torch."""
    if not TORCH:
        return recorded().notes["configs"][label]
    return json.loads(torch_model(label).config.to_json_string())


def architecture(label: str) -> EncoderConfig:
    """Ours, read from it."""
    hf = config_json(label)
    return MODEL_TYPES[hf["model_type"]].from_hf(hf, where=label)


def tensors_of(label: str, draw: Draw = "large") -> dict[str, np.ndarray]:
    """Transformers' weights by the names that a file has; the recorded ones where there is no torch."""
    if not TORCH and draw == "large":
        start = f"{label}\n"
        found = {name: x for name, x in recorded().weights.items() if name.startswith(start)}
        return {name.removeprefix(start): np.float32(x) / GRID for name, x in found.items()}
    model = torch_model(label, draw)
    return _as_saved(model, model.state_dict())


def params_of(config: EncoderConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters out of tensors."""
    return weights.from_hf(
        config.weights(),
        tensors,
        nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: make(config)))[1]),
        where="the case",
        prefix=config.hf_prefix,
        ignored=config.hf_ignored,
    )


def make(config: EncoderConfig, computing: Computing | None = None) -> Any:
    """The module."""
    return config.make_module(computing or Computing(jnp.dtype("float32"), dropout=0.1), rngs=nnx.Rngs(params=0))


def _as_saved(model: Any, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """By the names of a file, which are not always those of the module."""
    from transformers.core_model_loading import revert_weight_conversion

    return {name: tensor.detach().numpy() for name, tensor in revert_weight_conversion(model, dict(tensors)).items()}


@functools.cache
def expected(label: str, side: Side, dtype: str = "float32", draw: Draw = "large") -> Result:
    """Transformers'."""
    import torch

    model, tokens = copy.deepcopy(torch_model(label, draw)).to(getattr(torch, dtype)), tokens_of(label, side)
    mask = torch.tensor(np.asarray(tokens.mask, np.int64))
    out = model(torch.tensor(np.asarray(tokens.ids)), attention_mask=mask, output_hidden_states=True)
    hidden = torch.stack(out.hidden_states).float()
    (hidden * torch.tensor(cotangents_of(label, side))).sum().backward()
    gradient = {
        name: (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).float()
        for name, parameter in model.named_parameters()
    }
    return Result(hidden.detach().numpy() * mask_of(side)[None, :, :, None], _as_saved(model, gradient))


@functools.cache
def ours(label: str, side: Side, dtype: str = "float32", draw: Draw = "large") -> Result:
    """The student's."""
    tokens, cotangents = tokens_of(label, side), cotangents_of(label, side)
    hidden, gradient = _program(label, dtype)(_params(label, draw), tokens, cotangents)
    return Result(np.asarray(hidden) * mask_of(side)[None, :, :, None], _named(label, gradient))


def packed(label: str) -> tuple[Result, Result]:
    """In packed rows, and what the padded rows give, laid out in the same way: `[depth + 1, r, p, d]`."""
    tokens, cotangents = tokens_of(label, "right"), cotangents_of(label, "right")
    rows = packed_rows(LENGTHS, CAPACITY)
    assert rows < len(LENGTHS)
    at = places(LENGTHS, padded=PADDED, rows=rows, capacity=CAPACITY)

    def laid(x: np.ndarray) -> np.ndarray:
        return np.where(at[None, :, :, None] >= 0, x.reshape(x.shape[0], -1, x.shape[-1])[:, np.maximum(at, 0)], 0.0)

    hidden, gradient = _program(label, "float32")(
        _params(label), tokens._replace(packed=jnp.asarray(at)), laid(cotangents).astype(np.float32)
    )
    found = Result(np.asarray(hidden) * (at >= 0)[None, :, :, None], _named(label, gradient))
    padded = ours(label, "right")
    return found, Result(laid(padded.hidden), padded.gradient)


def scanned(label: str) -> tuple[Result, Result]:
    """The last layer's hidden states with layers scanned, and unrolled."""
    tokens, cotangents = tokens_of(label, "right"), cotangents_of(label, "right")
    cotangents[:-1] = 0
    held = mask_of("right")[None, :, :, None]

    def result(program: Callable[..., Any], cotangents: np.ndarray) -> Result:
        hidden, gradient = program(_params(label), tokens, cotangents)
        return Result(np.asarray(hidden)[-1:] * held, _named(label, gradient))

    found = result(_program(label, "float32", scan=True), cotangents[-1:])
    return found, result(_program(label, "float32"), cotangents)


@functools.cache
def _program(label: str, dtype: str, *, scan: bool = False) -> Callable[..., Any]:
    """Compiled `(params, tokens, cotangents) -> (hidden, gradient)`; scanned, the last layer's hidden states only."""
    config = architecture(label)
    graph = nnx.split(nnx.eval_shape(lambda: make(config, Computing(jnp.dtype(dtype), dropout=0.1, scan=scan))))[0]
    wanted = (config.depth,) if scan else tuple(range(config.depth + 1))

    def both(params: Any, tokens: Tokens, cotangents: jax.Array) -> tuple[jax.Array, Any]:
        def hidden(params: Any) -> jax.Array:
            states = nnx.merge(graph, params)(rows_of(tokens), layers=wanted)
            assert all(x.dtype == dtype for x in states.values())
            return jnp.stack([states[layer].astype(jnp.float32) for layer in wanted])

        value, vjp = jax.vjp(hidden, params)
        return value, vjp(cotangents)[0]

    return jax.jit(both, compiler_options=FAST_TO_COMPILE)


@functools.cache
def _params(label: str, draw: Draw = "large") -> dict[str, Any]:
    return params_of(architecture(label), tensors_of(label, draw))


def _named(label: str, gradient: Any) -> dict[str, np.ndarray]:
    return weights.to_hf(architecture(label).weights(), gradient)


def difference(found: Result, other: Result) -> Difference:
    """Largest difference, relative to the largest value of that layer, or of that parameter's gradient.

    A gradient that is small beside the others' is measured as if it were a hundredth of the largest: that of a key's
    bias is exactly 0 and all of it rounding.
    """
    value = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found.hidden, other.hidden, strict=True)]
    floor = 1e-2 * max(np.abs(x).max() for x in other.gradient.values())
    gradient = [
        np.abs(x - other.gradient[name]).max() / max(np.abs(other.gradient[name]).max(), floor)
        for name, x in found.gradient.items()
    ]
    return Difference(float(np.max(value)), float(np.max(gradient)))


def rounding(found: Result, other: Result) -> Difference:
    """Length of the difference relative to the other's length: of each layer's hidden states, of the whole gradient."""
    value = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found.hidden, other.hidden, strict=True)]
    a, b = (np.concatenate([x.gradient[name].ravel() for name in found.gradient]) for x in (found, other))
    return Difference(float(np.max(value)), float(np.linalg.norm(a - b) / np.linalg.norm(b)))


def rounded(label: str, side: Side, draw: Draw) -> tuple[Difference, Difference]:
    """What bfloat16 loses: the student, and transformers."""
    return (
        rounding(ours(label, side, "bfloat16", draw), ours(label, side, draw=draw)),
        rounding(expected(label, side, "bfloat16", draw), expected(label, side, draw=draw)),
    )


def allowed(label: str, draw: Draw, theirs: Difference) -> Difference:
    """What the student may lose where transformers loses so much."""
    value = BFLOAT16 if draw == "initial" else max(BFLOAT16, theirs.value)
    return Difference(value, math.inf if CASES[label].kinked else max(BFLOAT16, theirs.gradient))
