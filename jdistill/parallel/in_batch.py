"""THE shard_map: gather the batch's vectors, show each loss its View, average.

Only here and in sweeps.py are collectives written. The loss leaves as a mean over all devices, and gradients are taken
*outside*: then the all-gathers turn into reduce-scatters and every gradient is that of the whole batch's mean, neither
multiplied by the number of devices nor divided by it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from jdistill.config import UserError
from jdistill.losses import LossConfig
from jdistill.parallel.mesh import AXES
from jdistill.parallel.sweeps import GATHERED_BYTES, make_sweep
from jdistill.types import Batch, Columns, Projection, Side, TextIds, Vectors, View

Objective = Callable[
    [Vectors, Batch, Mapping[str, dict[str, Array]], Float[Array, ""], Array],
    tuple[Float[Array, ""], dict[str, Float[Array, ""]]],
]


def make_objective(terms: Mapping[str, LossConfig], mesh: Mesh, *, gathered_bytes: int = GATHERED_BYTES) -> Objective:
    """The weighted sum of `terms` as a function of a whole batch of vectors; differentiate it from outside.

    Args:
      terms: name -> loss. Each that learns from a teacher has the teacher's name filled in.
      mesh: the devices over which rows lie.
      gathered_bytes: the most that candidates and their gradients may take on a device; above it, losses that can have
        them handed round a ring instead.

    Returns:
      `objective(vectors, batch, parameters, progress, key) -> (loss, {term: mean before its weight})`, to be called
      under `jax.jit`. `vectors` are the student's, rows first; of `batch` everything but the tokens is read;
      `parameters` maps a term to its learnable values and may leave out terms that have none; `progress` is the share
      of training done; `key` is this step's. It raises UserError if the rows do not divide over the devices, and
      ValueError if vectors that a term needs are missing.

    Raises:
      ValueError: if a term's teacher is not filled in.
    """
    taught = sorted({teacher for term in terms.values() for teacher in term.teachers})
    per_device = make_device_objective(terms, mesh, gathered_bytes=gathered_bytes)

    def whole_batch(
        vectors: Vectors, targets: Any, ids: Any, scores: Any, labels: Any, parameters: Any, *rest: Array
    ) -> Any:
        # Values that are whole on every device are marked as each device's own: the gradient of that is a sum over
        # the devices, taken here once, whatever a loss does with them.
        projections, parameters = lax.pcast((vectors.projections, parameters), AXES, to="varying")
        vectors = vectors._replace(projections=projections)
        return lax.pmean(per_device(vectors, targets, ids, scores, labels, parameters, *rest), AXES)

    whole, rows = PartitionSpec(), PartitionSpec(AXES)
    split = Vectors(columns=rows, hidden=rows, projections=whole)  # pyright: ignore[reportArgumentType]
    sharded = jax.shard_map(
        whole_batch, mesh=mesh, in_specs=(split, rows, rows, rows, rows, whole, whole, whole), out_specs=whole
    )

    def objective(
        vectors: Vectors,
        batch: Batch,
        parameters: Mapping[str, dict[str, Array]],
        progress: Float[Array, ""],
        key: Array,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        for teacher in taught:
            if teacher not in batch.targets:
                known = ", ".join(batch.targets) or "none"
                raise ValueError(f"vectors of the teacher '{teacher}' are missing; got: {known}")
        check_rows(vectors.columns.documents.shape[0], mesh)
        targets = {teacher: batch.targets[teacher] for teacher in taught}
        ids = (batch.query_ids, batch.document_ids)
        return sharded(vectors, targets, ids, batch.scores, batch.labels, parameters, progress, key)

    return objective


def make_device_objective(
    terms: Mapping[str, LossConfig], mesh: Mesh, *, gathered_bytes: int = GATHERED_BYTES
) -> Callable:
    """The objective as one device computes it, inside a shard_map over `mesh`; arguments as of `make_objective`.

    Returns:
      `(vectors, targets, (query ids, document ids), scores, labels, parameters, progress, key) ->
      (loss, {term: mean})`: the means over this device's rows. Projections and parameters come marked as its own.
    """
    teachers = {name: term.teachers for name, term in terms.items()}
    # Where no row looks at another, a device's rows are a whole batch to it.
    axes = AXES if any(term.needs().batch for term in terms.values()) else ()

    def per_device(
        vectors: Vectors,
        targets: dict[str, Columns],
        ids: tuple[Array | None, Array],
        scores: Array | None,
        labels: Array | None,
        parameters: Mapping[str, dict[str, Array]],
        progress: Array,
        key: Array,
    ) -> tuple[Array, dict[str, Array]]:
        student = gather(vectors.columns, axes)
        hidden = {layer: gather(columns, axes) for layer, columns in vectors.hidden.items()}
        teaching = {teacher: gather(columns, axes) for teacher, columns in targets.items()}
        text_ids = gather_ids(*ids, axes)
        all_scores, all_labels = (None if x is None else _whole(x, axes) for x in (scores, labels))
        b = student.documents.shape[0]
        means = {}
        for i, (name, term) in enumerate(terms.items()):
            teacher = side_by_side([teaching[teacher] for teacher in teachers[name]])
            widths = student.documents.shape[1] + (teacher.documents.shape[1] if teacher else 0)
            view = View(
                student=student,
                teacher=teacher,
                projection=one_projection([vectors.projections.get(teacher) for teacher in teachers[name]], student),
                hidden=hidden,
                rows=lax.axis_index(axes) * b + jnp.arange(b),
                ids=text_ids,
                scores=scores,
                all_scores=all_scores,
                parameters=parameters.get(name, {}),
                progress=progress,
                key=jax.random.fold_in(key, i),
                sweep=make_sweep(mesh, student.all_documents.shape[0], widths, gathered_bytes=gathered_bytes),
                labels=labels,
                all_labels=all_labels,
            )
            with jax.named_scope(name):
                means[name] = term(view).mean()
        weighted = [term.weight_at(progress) * means[name] for name, term in terms.items()]
        return jnp.stack(weighted).sum(), means

    return per_device


def side_by_side(teachers: Sequence[Side]) -> Side | None:
    """One Side of all teachers' vectors, concatenated along their width; None of none."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *teachers) if teachers else None


def one_projection(projections: Sequence[Projection | None], student: Side) -> Projection | None:
    """The map into the teachers' spaces side by side; where only some have one, the others' is the identity."""
    if all(projection is None for projection in projections):
        return None
    width = student.documents.shape[-1]
    found = [Projection(jnp.eye(width), jnp.zeros(width)) if p is None else p for p in projections]
    return Projection(*(jnp.concatenate(parts, axis=-1) for parts in zip(*found, strict=True)))


def gather(columns: Columns, axes: tuple[str, ...] = AXES) -> Side:
    """One side of the View of this device: its own rows, and those of the whole batch, gathered with gradients.

    Everything is gathered here whether or not a term reads it: what none reads, the compiler leaves out, so a loss
    need not declare what it looks at, and cannot declare it wrongly. Hard negatives travel apart from the documents for
    that reason. In `A[n_X, d]` notation, `all_gather` turns rows split over the mesh, `n_X`, into whole ones, `n`; its
    transpose is a reduce-scatter. Over no `axes` the device's rows are the batch.
    """
    queries, documents, negatives = columns.queries, columns.documents[:, 0], columns.documents[:, 1:]
    all_documents = _whole(documents, axes)
    if negatives.shape[1]:
        by_column = _whole(negatives, axes).swapaxes(0, 1)
        all_documents = jnp.concatenate([all_documents, by_column.reshape(-1, documents.shape[-1])])
    return Side(
        queries=queries,
        documents=documents,
        negatives=negatives,
        all_queries=None if queries is None else _whole(queries, axes),
        all_documents=all_documents,
    )


def gather_ids(queries: Int[Array, " b"] | None, documents: Int[Array, "b c"], axes: tuple[str, ...] = AXES) -> TextIds:
    """The numbers of the texts, laid out as `gather` lays out their vectors."""
    return TextIds(
        queries=queries,
        documents=documents[:, 0],
        negatives=documents[:, 1:],
        all_queries=None if queries is None else _whole(queries, axes),
        all_documents=_whole(documents, axes).T.reshape(-1),
    )


def _whole(rows: Shaped[Array, "b *d"], axes: tuple[str, ...]) -> Shaped[Array, "n *d"]:
    # On one device the batch is its rows; the compiler would copy them.
    return rows if lax.axis_size(axes) == 1 else lax.all_gather(rows, axes, tiled=True)


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
