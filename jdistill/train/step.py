"""One update of the student: pure, compiled once per shape of batch."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jdistill.losses import LossConfig
from jdistill.parallel import make_objective, replicated, row_sharding
from jdistill.student import Student
from jdistill.train.optimizer import AdamW
from jdistill.train.state import TrainState
from jdistill.types import Batch, Columns, Metrics, Tokens

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    student: Student, terms: Mapping[str, LossConfig], optimizer: AdamW, mesh: Mesh, *, seed: int, total_steps: int
) -> TrainStep:
    """Compile-once `(state, batch) -> (state, metrics)`; the given state's memory is reused and must not be read again.

    Args:
      student: turns tokens into vectors.
      terms: name -> loss, teachers filled in.
      optimizer: turns gradients into updates.
      mesh: rows of the batch lie over it; the state is whole on each device.
      seed: with the step, decides dropout.
      total_steps: length of the run; losses see their share of it as progress.
    """
    objective = make_objective(terms, mesh)
    teachers = needed_teachers(terms)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        progress = state.step.astype(jnp.float32) / total_steps

        def loss_fn(params: dict[str, PyTree[Array]]) -> tuple[Array, dict[str, Array]]:
            vectors = encode_batch(student, params["student"], batch, teachers, key)
            return objective(vectors, batch, params["losses"], progress)

        # Outside the objective's shard_map, so that the gradient is that of the mean over the whole batch.
        (loss, parts), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        params, opt_state, norms = optimizer.update(gradients, state.opt_state, state.params, state.step)
        return TrainState(state.step + 1, params, opt_state), Metrics(loss, parts, norms.gradient, norms.update)

    whole, rows = replicated(mesh), row_sharding(mesh)
    return jax.jit(train_step, in_shardings=(whole, rows), out_shardings=(whole, whole), donate_argnums=0)


def needed_teachers(terms: Mapping[str, LossConfig]) -> tuple[str, ...]:
    """Teachers into whose space some term wants the student's vectors projected, sorted."""
    spaces = {term.student_space for term in terms.values()}
    return tuple(sorted(space.removeprefix("teacher:") for space in spaces if space.startswith("teacher:")))


def encode_batch(
    student: Student,
    params: PyTree[Array],
    batch: Batch,
    teachers: tuple[str, ...],
    key: Array,
) -> dict[str, Columns]:
    """The student's vectors of a batch in each space: its own, `"student"`, and `"teacher:<name>"`."""
    query_key, document_key = jax.random.split(key)
    n, c, length = batch.documents.ids.shape
    flat = Tokens(
        batch.documents.ids.reshape(n * c, length), batch.documents.mask.reshape(n * c, length), batch.documents.packed
    )
    documents = student.encode(params, flat, dropout_key=document_key)
    queries = None if batch.queries is None else student.encode(params, batch.queries, dropout_key=query_key)
    spaces = {"student": Columns(queries, documents.reshape(n, c, -1))}
    for teacher in teachers:
        spaces[f"teacher:{teacher}"] = Columns(
            None if queries is None else student.project(params, queries, teacher),
            student.project(params, documents, teacher).reshape(n, c, -1),
        )
    return spaces


def learning_rate(optimizer: AdamW, step: int) -> float:
    """The learning rate of the update that leads to `step`."""
    return float(optimizer.schedule(jnp.int32(step - 1)))
