"""Every loss through the one shard_map, on any number of devices."""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from jdistill.parallel import make_mesh, make_objective, row_sharding
from jdistill.parallel.sweeps import GATHERED_BYTES
from jdistill.types import Batch, Vectors
from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS
from tests.losses.measure import FAST_TO_COMPILE, KEY, Result, batch, learned, leaves, vectors


@functools.cache
def sharded(
    label: str, name: str, devices: int, gathered_bytes: int = GATHERED_BYTES, *, optimized: bool = False
) -> Result:
    """A loss on the batch of that name, its rows split over `devices`; optimised, as users compile it."""
    case, inputs = CASES[label], INPUTS[name]
    rows = jax.device_put(batch(case, inputs), row_sharding(mesh_of(devices)))
    value, gradient = _split(label, devices, gathered_bytes, optimized)(vectors(case, inputs), learned(case), rows)
    return Result(float(value), leaves(gradient))


@functools.lru_cache(maxsize=4)
def _split(label: str, devices: int, gathered_bytes: int, optimized: bool) -> Callable:
    """Compiled once for all batches of one shape."""
    case = CASES[label]
    objective = make_objective({"term": case.loss}, mesh_of(devices), gathered_bytes=gathered_bytes)

    def mean(student: Vectors, parameters: dict, rows: Batch) -> jax.Array:
        progress, key = jnp.float32(case.progress), jax.random.key(KEY)
        return objective(student, rows, {"term": parameters}, progress, key)[1]["term"]

    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1)), compiler_options={} if optimized else FAST_TO_COMPILE)


def mesh_of(devices: int) -> Mesh:
    if devices > len(jax.devices()):
        pytest.skip(f"{devices} devices are needed, there are {len(jax.devices())}")
    return make_mesh(jax.devices()[:devices])


def loops(text: str) -> str:
    """Of a compiled program, the computations that are bodies of loops."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    blocks = re.split(r"\n(?=%|ENTRY)", text)
    return "\n".join(block for block in blocks if block.split(" ")[0].lstrip("%") in bodies)
