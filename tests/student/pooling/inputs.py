"""Hidden states of a few texts, padded and packed, and poolings whose parameters are not as they start."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.loader.packing import packed_rows, places
from jdistill.student.encoders import BertConfig
from jdistill.student.packing import PackedRows, PaddedRows, TokenRows
from jdistill.student.pooling import PoolingModule
from jdistill.types import Tokens

ENCODER = BertConfig(vocab_size=23, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)

MASKS = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0] * 6], bool)
"""Padded on either side; the last text has no token."""

IDS = np.where(MASKS, [[3, 9, 9, 5, 2, 9], [4, 1, 4, 0, 0, 0], [0, 0, 7, 7, 8, 2], [2] + [0] * 5, [0] * 6], 0)
"""Tokens, some of them several times in a text."""


def hidden() -> np.ndarray:
    """`[n, l, d]`."""
    return np.random.default_rng(0).normal(size=(*MASKS.shape, ENCODER.width)).astype(np.float32)


def padded() -> TokenRows:
    return PaddedRows(Tokens(jnp.asarray(IDS, jnp.int32), jnp.asarray(MASKS)))


def packed(values: np.ndarray) -> tuple[TokenRows, jax.Array]:
    """The texts that are padded on the right, packed, with their values `[n, l, d]` in the places where they stand."""
    right = np.array([0, 1, 3])
    mask, ids, lengths = MASKS[right], IDS[right], MASKS[right].sum(1)
    where = jnp.asarray(places(lengths, padded=mask.shape[1], rows=packed_rows(lengths, 7), capacity=7))
    tokens = Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask), where)
    flat = jnp.asarray(values[right]).reshape(-1, values.shape[-1])
    return PackedRows(tokens, where), jnp.where((where >= 0)[:, :, None], flat[jnp.maximum(where, 0)], 7.0)


def parameters(pooling: PoolingModule, scale: float = 0.5) -> dict[str, Any]:
    """Those that `init` gives, moved."""
    leaves, tree = jax.tree.flatten(jax.jit(lambda: pooling.init(ENCODER, jax.random.key(0)))())
    random = np.random.default_rng(1)
    moved = [x + scale * jnp.asarray(random.normal(size=x.shape), jnp.float32) for x in leaves]
    return jax.tree.unflatten(tree, moved)


def encoder_parameters() -> dict[str, Any]:
    """As much of the encoder's as poolings look at."""
    words = jax.random.normal(jax.random.key(2), (ENCODER.vocab_size, ENCODER.width))
    return {"embeddings": {"words": words}}


def value_and_gradient(function: Callable[..., Any], cotangent: Any, *arguments: Any) -> tuple[Any, Any]:
    """What a function gives, and the gradient of that times `cotangent`, summed; compiled fast, since it runs once."""

    def both(cotangent: Any, *arguments: Any) -> tuple[Any, Any]:
        value, vjp = jax.vjp(function, *arguments)
        return value, vjp(cotangent)

    options: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    return jax.jit(both, compiler_options=options)(jnp.asarray(cotangent, jnp.float32), *arguments)
