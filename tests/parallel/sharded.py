"""Every loss through the one shard_map, on any number of devices."""

import functools

import jax
import jax.numpy as jnp

from jdistill.parallel import make_mesh, make_objective, row_sharding
from jdistill.types import Batch, Columns, Tokens
from tests.losses.cases import CASES, TEACHER
from tests.losses.inputs import INPUTS, Inputs, fits
from tests.losses.measure import Result, differentiate


@functools.cache
def sharded(name: str, devices: int) -> dict[str, Result]:
    """Every loss on the batch called `name`, its rows split over `devices`."""
    inputs = INPUTS[name]
    terms = {label: case.loss for label, case in CASES.items() if fits(case, inputs)}
    mesh = make_mesh(jax.devices()[:devices])
    objective = make_objective(terms, mesh)
    parts = batch(inputs)

    def means(student: dict[str, Columns]) -> dict[str, jax.Array]:
        return objective(student, parts, {}, jnp.float32(0))[1]

    student = jax.device_put(inputs.student, row_sharding(mesh))
    return differentiate(means, student, {label: term.student_space for label, term in terms.items()})


def batch(inputs: Inputs) -> Batch:
    """The parts of a Batch that an objective reads; the tokens are not among them."""
    tokens = Tokens(jnp.zeros((inputs.rows, 1, 1), jnp.int32), jnp.ones((inputs.rows, 1, 1), bool))
    return Batch(
        queries=None,
        documents=tokens,
        targets={TEACHER: jax.tree.map(jnp.asarray, inputs.teacher)},
        scores=None,
        query_ids=None,
        document_ids=jnp.zeros((inputs.rows, 1), jnp.int32),
    )
