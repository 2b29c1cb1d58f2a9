"""THE shard_map: gather the batch's vectors, show each loss its View, average.

No other module of the project writes a collective. The loss leaves as a mean over all devices, and gradients are taken
*outside*: then the all-gathers turn into reduce-scatters and every gradient is that of the whole batch's mean, neither
multiplied by the number of devices nor divided by it.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.losses import LossConfig
from jdistill.parallel.mesh import AXES
from jdistill.types import Batch, Columns, Side, View

Objective = Callable[
    [Mapping[str, Columns], Batch, Mapping[str, dict[str, Array]], Float[Array, ""]],
    tuple[Float[Array, ""], dict[str, Float[Array, ""]]],
]


def make_objective(terms: Mapping[str, LossConfig], mesh: Mesh) -> Objective:
    """The weighted sum of `terms` as a function of a whole batch of vectors; differentiate it from outside.

    Args:
      terms: name -> loss. Each that learns from a teacher has the teacher's name filled in.
      mesh: the devices over which rows lie.

    Returns:
      `objective(student, batch, parameters, progress) -> (loss, {term: mean before its weight})`, to be called under
      `jax.jit`. `student` maps each term's `student_space` to the student's vectors, rows first; of `batch`
      only `targets` and `scores` are read; `parameters` maps a term to its learnable values and may leave out terms
      that have none; `progress` is the share of training done. It raises UserError if the rows do not divide over the
      devices, and ValueError if vectors that a term needs are missing.

    Raises:
      ValueError: if a term's teacher is not filled in.
    """
    spaces = {name: term.student_space for name, term in terms.items()}
    teachers = {name: term.teacher for name, term in terms.items() if term.needs_teacher and term.teacher is not None}

    def per_device(
        student: dict[str, Columns],
        targets: dict[str, Columns],
        scores: Array | None,
        parameters: Mapping[str, dict[str, Array]],
        progress: Array,
    ) -> tuple[Array, dict[str, Array]]:
        students = {space: gather(columns) for space, columns in student.items()}
        teaching = {teacher: gather(columns) for teacher, columns in targets.items()}
        means = {}
        for name, term in terms.items():
            side = students[spaces[name]]
            b = side.documents.shape[0]
            view = View(
                student=side,
                teacher=teaching[teachers[name]] if name in teachers else None,
                rows=lax.axis_index(AXES) * b + jnp.arange(b),
                scores=scores,
                parameters=parameters.get(name, {}),
                progress=progress,
            )
            with jax.named_scope(name):
                means[name] = term(view).mean()
        means = lax.pmean(means, AXES)
        return jnp.stack([term.weight * means[name] for name, term in terms.items()]).sum(), means

    whole, rows = PartitionSpec(), PartitionSpec(AXES)
    sharded = jax.shard_map(per_device, mesh=mesh, in_specs=(rows, rows, rows, whole, whole), out_specs=whole)

    def objective(
        student: Mapping[str, Columns],
        batch: Batch,
        parameters: Mapping[str, dict[str, Array]],
        progress: Float[Array, ""],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        needed = {space: _find(student, space, "student") for space in sorted(set(spaces.values()))}
        targets = {name: _find(batch.targets, name, "teacher") for name in sorted(set(teachers.values()))}
        check_rows(next(iter(needed.values())).documents.shape[0], mesh)
        return sharded(needed, targets, batch.scores, parameters, progress)

    return objective


def gather(columns: Columns) -> Side:
    """One side of the View of this device: its own rows, and those of the whole batch, gathered with gradients.

    Everything is gathered here whether or not a term reads it: what none reads, the compiler leaves out, so a loss
    need not declare what it looks at, and cannot declare it wrongly. Hard negatives travel apart from the documents for
    that reason. In `A[n_X, d]` notation, `all_gather` turns rows split over the mesh, `n_X`, into whole ones, `n`; its
    transpose is a reduce-scatter.
    """
    queries, documents, negatives = columns.queries, columns.documents[:, 0], columns.documents[:, 1:]
    all_documents = _whole(documents)
    if negatives.shape[1]:
        by_column = _whole(negatives).swapaxes(0, 1)
        all_documents = jnp.concatenate([all_documents, by_column.reshape(-1, documents.shape[-1])])
    return Side(
        queries=queries,
        documents=documents,
        negatives=negatives,
        all_queries=None if queries is None else _whole(queries),
        all_documents=all_documents,
    )


def _whole(rows: Float[Array, "b *d"]) -> Float[Array, "n *d"]:
    return lax.all_gather(rows, AXES, tiled=True)


def check_rows(rows: int, mesh: Mesh) -> None:
    """Refuse a batch that does not split evenly.

    Raises:
      UserError: naming the rows and the devices.
    """
    if rows % mesh.size:
        near = " or ".join(str(n) for n in (rows - rows % mesh.size, rows + mesh.size - rows % mesh.size) if n)
        raise UserError(
            f"a batch of {rows} rows does not divide over {mesh.size} devices. Make the global batch size a multiple "
            f"of {mesh.size}, such as {near}, or use fewer devices."
        )


def _find(vectors: Mapping[str, Columns], name: str, whose: str) -> Columns:
    if name not in vectors:
        raise ValueError(f"{whose} vectors '{name}' are missing; got: {', '.join(vectors) or 'none'}")
    return vectors[name]
