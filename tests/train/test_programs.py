"""Programs are compiled ahead, one per shape, and do what the step does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.parallel import make_mesh, replicated, row_sharding
from jdistill.train.programs import Programs
from jdistill.types import Batch, Tokens


def batch(length: int) -> Batch:
    ids = np.arange(8 * length, dtype=np.int32).reshape(8, 1, length)
    return Batch(None, Tokens(ids, ids > 0), {}, None, None, np.zeros((8, 1), np.int32))


@pytest.fixture
def counted():
    """A mesh, a step that counts how often it is traced, and its traces."""
    mesh, traced = make_mesh(), []

    def step(state, batch):
        traced.append(batch.documents.ids.shape)
        return state + batch.documents.ids.sum(), batch.documents.mask.sum()

    whole, rows = replicated(mesh), row_sharding(mesh)
    return mesh, jax.jit(step, in_shardings=(whole, rows), out_shardings=(whole, whole)), traced


def placed(mesh, batch):
    return jax.tree.map(lambda x: jax.device_put(x, row_sharding(mesh)), batch)


def test_each_shape_is_compiled_once_and_used(counted):
    mesh, step, traced = counted
    state = jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh))
    programs = Programs(step, mesh, state, [batch(4), batch(6)])
    for length in (4, 6, 4, 6):
        state, real = programs(state, placed(mesh, batch(length)))
        assert int(real) == 8 * length - 1
    programs.close()
    assert int(state) == 2 * sum(int(batch(length).documents.ids.sum()) for length in (4, 6))
    assert traced == [(8, 1, 4), (8, 1, 6)]


def test_a_shape_that_was_not_announced_compiles_when_it_comes(counted):
    mesh, step, traced = counted
    state = jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh))
    programs = Programs(step, mesh, state, [batch(4)])
    state, _ = programs(state, placed(mesh, batch(10)))
    programs.close()
    assert int(state) == int(batch(10).documents.ids.sum())
    assert (8, 1, 10) in traced


def test_closing_early_forgets_what_is_not_compiled_yet(counted):
    mesh, step, traced = counted
    state = jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh))
    Programs(step, mesh, state, [batch(length) for length in range(2, 40)]).close()
    assert len(traced) < 38
