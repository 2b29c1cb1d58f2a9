"""Encoding in pieces changes memory, never the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from jdistill.config import UserError
from jdistill.parallel import in_microbatches, replicated, row_sharding
from tests.parallel.sharded import mesh_of

ROWS, WIDTH = 32, 24


def encode(weights: Array, inputs: tuple[Array, Array], keys: Array) -> dict[str, Array]:
    """A layer with dropout, whose inputs have two forms."""
    x, shift = inputs
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.7, (WIDTH,)))(keys)
    return {"vectors": jnp.where(kept, jnp.tanh(x @ weights + shift[:, None]), 0.0)}


def make_inputs() -> tuple[tuple[Array, Array], Array]:
    x, shift, weights = (
        jax.random.normal(key, s)
        for key, s in zip(jax.random.split(jax.random.key(0), 3), [(ROWS, 6), (ROWS,), (6, WIDTH)], strict=True)
    )
    return (x, shift), weights


@pytest.mark.parametrize("devices", [1, 4])
def test_rows_keep_their_order_and_their_device(devices: int) -> None:
    mesh = mesh_of(devices)
    rows = jax.device_put(jnp.arange(ROWS), row_sharding(mesh))
    pieces = []

    def look(_: dict, x: Array, keys: Array) -> Array:
        jax.debug.callback(lambda seen: pieces.append(seen.tolist()), x)
        return 2 * x

    doubled = jax.jit(lambda x: in_microbatches(look, {}, x, jax.random.key(0), count=4, mesh=mesh))(rows)
    jax.effects_barrier()
    assert doubled.tolist() == [2 * i for i in range(ROWS)]
    assert doubled.sharding.is_equivalent_to(row_sharding(mesh), 1)
    assert sorted(row for piece in pieces for row in piece) == list(range(ROWS))
    assert {len(piece) for piece in pieces} == {ROWS // 4 // devices}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("devices", [1, 4])
def test_the_backward_pass_replays_the_same_dropout(devices: int, count: int) -> None:
    """Beside the whole batch on no mesh at all: what a row loses depends on its place in the batch only."""
    mesh, (inputs, weights) = mesh_of(devices), make_inputs()
    key, target = jax.random.key(3), jax.random.normal(jax.random.key(4), (ROWS, WIDTH))

    def coupled(vectors: Array) -> Array:
        return jax.nn.logsumexp(vectors @ vectors.T, axis=1).mean() + (vectors * target).mean()

    def cached(weights: Array, inputs: tuple[Array, Array]) -> Array:
        return coupled(in_microbatches(encode, weights, inputs, key, count=count, mesh=mesh)["vectors"])

    def kept(weights: Array, inputs: tuple[Array, Array]) -> Array:
        keys = jnp.stack([jax.random.fold_in(key, i) for i in range(ROWS)])
        return coupled(encode(weights, inputs, keys)["vectors"])

    placed = jax.device_put(weights, replicated(mesh)), jax.device_put(inputs, row_sharding(mesh))
    ours, theirs = (jax.jit(jax.value_and_grad(f))(*args) for f, args in ((cached, placed), (kept, (weights, inputs))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_memory_is_that_of_one_piece() -> None:
    mesh, width = mesh_of(1), 256
    weights = jax.ShapeDtypeStruct((4, width, width), jnp.float32)

    def memory(count: int) -> int:
        def layers(weights: Array, x: Array, _: Array) -> Array:
            for i in range(4):
                x = jnp.tanh(jnp.repeat(x, 8, axis=0) @ weights[i]).reshape(-1, 8, width).mean(axis=1)
            return x

        def loss(weights: Array, x: Array) -> Array:
            return in_microbatches(layers, weights, x, jax.random.key(0), count=count, mesh=mesh).sum()

        x = jax.ShapeDtypeStruct((1024, width), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(weights, x).compile().memory_analysis().temp_size_in_bytes

    assert memory(16) < memory(1) / 4


def test_pieces_that_do_not_divide_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"3 microbatches on 2 devices do not divide a global batch of 32 rows.*multiple of 6"
    ):
        in_microbatches(lambda _, x, keys: x, {}, jnp.zeros((ROWS, 1)), jax.random.key(0), count=3, mesh=mesh_of(2))
