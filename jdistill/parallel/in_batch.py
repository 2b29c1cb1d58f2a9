"""The objective on all devices: gather the batch's vectors, call each loss on its LossInputs, average over devices.

The collectives of the losses are here and in sweeps.py. The loss is returned as a mean over all devices, and gradients
are taken *outside* the shard_map: all-gathers then transpose to reduce-scatters, and every gradient is that of the
whole batch's mean, neither multiplied nor divided by the number of devices.
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
from jdistill.parallel.mesh import AXES, run_sharded
from jdistill.parallel.sweeps import GATHERED_BYTES, make_exchange
from jdistill.types import Batch, LossInputs, PairEmbeddings, Projection, Side, TextIds, Vectors

Objective = Callable[
    [Vectors, Batch, Mapping[str, dict[str, Array]], Float[Array, ""], Array],
    tuple[Float[Array, ""], dict[str, Float[Array, ""]]],
]


def make_objective(terms: Mapping[str, LossConfig], mesh: Mesh, *, gathered_bytes: int = GATHERED_BYTES) -> Objective:
    """The weighted sum of `terms` as a function of a whole batch of vectors; differentiate it from outside.

    Args:
      terms: name -> loss. Each that learns from a teacher has the teacher's name set.
      mesh: the devices over which rows are sharded.
      gathered_bytes: maximum size of gathered candidates and their gradients on a device; above it, losses that support
        it pass them round a ring instead.

    Returns:
      `objective(vectors, batch, parameters, progress, key) -> (loss, {term: mean before its weight})`, to be called
      under `jax.jit`. `vectors` are the student's, rows first; of `batch` everything but the tokens is used;
      `parameters` maps a term to its learnable values and may omit terms without any; `progress` is the fraction of
      training done; `key` is this step's PRNG key. It raises UserError if the rows do not divide evenly over the
      devices, and ValueError if vectors that a term needs are missing.

    Raises:
      ValueError: if a term's teacher is not set.
    """
    taught = sorted({teacher for term in terms.values() for teacher in term.teachers})
    per_device = make_device_objective(terms, mesh, gathered_bytes=gathered_bytes)

    def whole_batch(
        vectors: Vectors, targets: Any, ids: Any, scores: Any, labels: Any, parameters: Any, *rest: Array
    ) -> Any:
        # Mark replicated values as device-varying. The transpose of pcast is a psum, so their gradients are summed over
        # the devices exactly once, here, whatever a loss does with them.
        projections, parameters = lax.pcast((vectors.projections, parameters), AXES, to="varying")
        vectors = vectors._replace(projections=projections)
        # Devices have equally many rows, so the mean of their means is the mean over the batch.
        return lax.pmean(per_device(vectors, targets, ids, scores, labels, parameters, *rest), AXES)

    whole, rows = PartitionSpec(), PartitionSpec(AXES)
    split = Vectors(columns=rows, at_layer=rows, projections=whole)  # pyright: ignore[reportArgumentType]
    specs = (split, rows, rows, rows, rows, whole, whole, whole)

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
        arrays = (vectors, targets, ids, batch.scores, batch.labels, parameters, progress, key)
        return run_sharded(whole_batch, *arrays, mesh=mesh, inputs=specs, outputs=whole)

    return objective


def make_device_objective(
    terms: Mapping[str, LossConfig], mesh: Mesh, *, gathered_bytes: int = GATHERED_BYTES
) -> Callable:
    """The objective of one device, for use inside a shard_map over `mesh`; arguments as for `make_objective`.

    Returns:
      `(vectors, targets, (query ids, document ids), scores, labels, parameters, progress, key) ->
      (loss, {term: mean})`: the means over this device's rows. Projections and parameters must be device-varying.
    """
    teachers = {name: term.teachers for name, term in terms.items()}
    # If rows are independent, nothing needs to be gathered: each device treats its rows as the whole batch.
    axes = AXES if any(term.needs().batch for term in terms.values()) else ()

    def per_device(
        vectors: Vectors,
        targets: dict[str, PairEmbeddings],
        ids: tuple[Array | None, Array],
        scores: Array | None,
        labels: Array | None,
        parameters: Mapping[str, dict[str, Array]],
        progress: Array,
        key: Array,
    ) -> tuple[Array, dict[str, Array]]:
        student = gather(vectors.columns, axes)
        at_layer = {layer: gather(columns, axes) for layer, columns in vectors.at_layer.items()}
        teaching = {teacher: gather(columns, axes) for teacher, columns in targets.items()}
        text_ids = gather_ids(*ids, axes)
        all_scores, all_labels = (None if x is None else _whole(x, axes) for x in (scores, labels))
        b = student.documents.shape[0]
        means = {}
        for i, (name, term) in enumerate(terms.items()):
            teacher = side_by_side([teaching[teacher] for teacher in teachers[name]])
            widths = student.documents.shape[1] + (teacher.documents.shape[1] if teacher else 0)
            inputs = LossInputs(
                student=student,
                teacher=teacher,
                projection=one_projection([vectors.projections.get(teacher) for teacher in teachers[name]], student),
                at_layer=at_layer,
                # Device i holds the i-th b rows of the batch; without axes the index is 0.
                rows=lax.axis_index(axes) * b + jnp.arange(b),
                ids=text_ids,
                scores=scores,
                all_scores=all_scores,
                parameters=parameters.get(name, {}),
                progress=progress,
                key=jax.random.fold_in(key, i),
                sweep=make_exchange(mesh, student.all_documents.shape[0], widths, gathered_bytes=gathered_bytes),
                labels=labels,
                all_labels=all_labels,
            )
            with jax.named_scope(name):
                means[name] = term(inputs).mean()
        weighted = [term.weight_at(progress) * means[name] for name, term in terms.items()]
        return jnp.stack(weighted).sum(), means

    return per_device


def side_by_side(teachers: Sequence[Side]) -> Side | None:
    """All teachers' vectors concatenated along their width; None without teachers."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *teachers) if teachers else None


def one_projection(projections: Sequence[Projection | None], student: Side) -> Projection | None:
    """The projection into the concatenated teacher spaces; teachers without a projection get the identity."""
    if all(projection is None for projection in projections):
        return None
    width = student.documents.shape[-1]
    # Kernels side by side, [d, t1 + t2 + ...], as the teachers' vectors are.
    found = [Projection(jnp.eye(width), jnp.zeros(width)) if p is None else p for p in projections]
    return Projection(*(jnp.concatenate(parts, axis=-1) for parts in zip(*found, strict=True)))


def gather(columns: PairEmbeddings, axes: tuple[str, ...] = AXES) -> Side:
    """One Side of this device's View: its own rows, and those of the whole batch, gathered with gradients.

    Everything is gathered, whether or not a term reads it: XLA removes what is unused, so losses need not declare their
    inputs. Hard negatives are gathered separately from documents for that reason. In `A[n_X, d]` notation, `all_gather`
    turns rows sharded over the mesh, `n_X`, into all rows, `n`; its transpose is a reduce-scatter. Without `axes` the
    device's rows are the batch.
    """
    queries, documents, negatives = columns.queries, columns.documents[:, 0], columns.documents[:, 1:]
    all_documents = _whole(documents, axes)
    if negatives.shape[1]:
        # [n, k, d] -> [k n, d], column after column.
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
    """The ids of the texts, laid out as `gather` lays out their vectors."""
    return TextIds(
        queries=queries,
        documents=documents[:, 0],
        negatives=documents[:, 1:],
        all_queries=None if queries is None else _whole(queries, axes),
        all_documents=_whole(documents, axes).T.reshape(-1),
    )


def _whole(rows: Shaped[Array, "b *d"], axes: tuple[str, ...]) -> Shaped[Array, "n *d"]:
    # On one device the rows are the batch; all_gather would copy them.
    return rows if lax.axis_size(axes) == 1 else lax.all_gather(rows, axes, tiled=True)


def check_rows(rows: int, mesh: Mesh) -> None:
    """Raise if a batch does not divide evenly over the devices.

    Raises:
      UserError: with the numbers of rows and devices.
    """
    if rows % mesh.size:
        near = " or ".join(str(n) for n in (rows - rows % mesh.size, rows + mesh.size - rows % mesh.size) if n)
        raise UserError(
            f"a batch of {rows} rows does not divide over {mesh.size} devices. Make the global batch size a multiple "
            f"of {mesh.size}, such as {near}, or use fewer devices."
        )
