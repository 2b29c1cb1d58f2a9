"""The planned job: the run's actual train step, with shapes in place of state and batch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jdistill.losses import LossConfig
from jdistill.parallel import state_sharding
from jdistill.plan.rows import RowForm, SharedRows
from jdistill.student import Student
from jdistill.train.groups import Groups
from jdistill.train.state import TrainState, make_state
from jdistill.train.step import make_train_step
from jdistill.types import Batch, PairEmbeddings, Tokens


class Job(NamedTuple):
    """Everything that a run's train step depends on."""

    name: str
    student: Student
    params: dict[str, Any]
    """Shapes of the student's parameters."""
    terms: Mapping[str, LossConfig]
    optimizer: optax.GradientTransformation
    groups: Groups
    rows: RowForm
    teacher_widths: Mapping[str, int]
    """Teacher -> width of its vectors in the batch."""
    global_batch_size: int
    microbatches: int
    fsdp: int
    seed: int
    total_steps: int
    ema: float | None = None
    """Decay of the moving average of parameters."""

    def unit(self, chips: int) -> int:
        """The batch size must be a multiple of this."""
        return chips * self.microbatches * self.rows.multiple


def state_form(job: Job, mesh: Mesh) -> TrainState:
    """The state before the first step, as shapes with shardings."""

    def make(params: dict[str, Any]) -> TrainState:
        return make_state(params, job.terms, job.optimizer, job.groups, ema=job.ema is not None)

    shapes = jax.eval_shape(make, job.params)
    # Sharded as in training, so that the same program is compiled.
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        state_sharding(shapes, mesh),
    )


def batch_form(job: Job, rows: int, chips: int) -> Batch:
    """A batch of `rows` rows for `chips` chips, as shapes."""
    form, n = job.rows, rows

    def array(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    config, pieces = job.student.config, chips * job.microbatches

    def tokens(*shape: int, shared: SharedRows | None, prompt: str) -> Tokens:
        known = config.backbone == "cached"
        return Tokens(
            array(*shape, dtype=jnp.int32),
            array(*shape, dtype=jnp.bool_),
            # As the loader packs: every piece has the same, whole number of encoder rows.
            packed=None
            if shared is None
            else array(pieces * shared.of_piece(rows // pieces), shared.length, dtype=jnp.int32),
            hidden=array(*shape, config.encoder.width, dtype=jnp.dtype(config.dtype)) if known else None,
            prompt=array(*shape[:-1], dtype=jnp.int32) if prompt and not config.include_prompt else None,
        )

    plain, prompts = form.query_length == 0, job.student.prompts
    queries, documents = (None, None) if form.shared is None else (form.shared.queries, form.shared.documents)
    return Batch(
        queries=None if plain else tokens(n, form.query_length, shared=queries, prompt=prompts.query),
        documents=tokens(n, form.documents, form.document_length, shared=documents, prompt=prompts.document),
        targets={
            teacher: PairEmbeddings(None if plain else array(n, width), array(n, form.documents, width))
            for teacher, width in job.teacher_widths.items()
        },
        scores=array(n, form.scores) if form.scores else None,
        query_ids=None if plain else array(n, dtype=jnp.int32),
        document_ids=array(n, form.documents, dtype=jnp.int32),
        labels=array(n, dtype=jnp.int32) if form.labels else None,
    )


def batch_bytes(job: Job, rows: int, chips: int) -> int:
    """Bytes of a batch of `rows` rows, all chips together."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch_form(job, rows, chips)))


def trace(job: Job, mesh: Mesh, rows: int) -> Any:
    """Trace the jitted step for a batch of `rows` rows, without compiling it.

    Raises:
      UserError: if the rows do not divide over the mesh, or a term does not match the data.
    """
    step: Any = make_train_step(
        job.student,
        job.terms,
        job.optimizer,
        job.groups,
        mesh,
        seed=job.seed,
        total_steps=job.total_steps,
        microbatches=job.microbatches,
        ema=job.ema,
    )
    return step.trace(state_form(job, mesh), batch_form(job, rows, mesh.size))
