"""Every loss through the one shard_map, on any number of devices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jdistill.parallel import make_mesh, make_objective, row_sharding
from jdistill.types import Batch, Columns, Tokens
from tests.losses.cases import CASES, TEACHER
from tests.losses.inputs import INPUTS
from tests.losses.measure import Result, differentiated, labels_for, results


@functools.cache
def sharded(name: str, devices: int) -> dict[str, Result]:
    """Every loss on the batch of that name, its rows split over `devices`."""
    inputs, labels = INPUTS[name], labels_for(INPUTS[name])
    rows = row_sharding(_mesh(devices))
    student, teacher = jax.device_put((inputs.student, inputs.teacher), rows)
    return results(_split(labels, devices), labels, student, teacher)


@functools.cache
def _split(labels: tuple[str, ...], devices: int) -> Callable:
    objective = make_objective({label: CASES[label].loss for label in labels}, _mesh(devices))

    def means(student: dict[str, Columns], teacher: Columns) -> dict[str, jax.Array]:
        return objective(student, batch(teacher), {}, jnp.float32(0))[1]

    return differentiated(means, xla_backend_optimization_level=0)  # compiles in half the time; speed is not at stake


def _mesh(devices: int) -> Mesh:
    return make_mesh(jax.devices()[:devices])


def batch(teacher: Columns) -> Batch:
    """The parts of a Batch that an objective reads; the tokens are not among them."""
    rows = teacher.documents.shape[0]
    return Batch(
        queries=None,
        documents=Tokens(jnp.zeros((rows, 1, 1), jnp.int32), jnp.ones((rows, 1, 1), bool)),
        targets={TEACHER: teacher},
        scores=None,
        query_ids=None,
        document_ids=jnp.zeros((rows, 1), jnp.int32),
    )
