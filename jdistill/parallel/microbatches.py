"""Encoding on every device at once, in one piece or several: GradCache.

Each device encodes its own rows with its own copy of the parameters, so that no activation ever travels, and however
many pieces there are, the gradient crosses the devices once, after the last.

In several pieces memory holds the activations of one piece only, while the loss still sees all vectors of the batch at
once. JAX's rematerialisation does what Gao et al. 2021 (arXiv:2101.06983) do by hand: the forward pass keeps nothing of
a piece but its vectors, and the backward pass encodes each piece again, with the same dropout, when it needs the
gradient. One more forward pass is the whole price.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from jdistill.config import UserError
from jdistill.parallel.in_batch import check_rows
from jdistill.parallel.mesh import AXES
from jdistill.parallel.sharding import gather_params, state_specs

Inputs = TypeVar("Inputs")
Vectors = TypeVar("Vectors")


def in_microbatches(
    encode: Callable[[PyTree[Array], Inputs, Array], Vectors],
    params: PyTree[Array],
    inputs: Inputs,
    key: Array,
    *,
    count: int,
    mesh: Mesh,
) -> Vectors:
    """`encode(params, inputs, keys)`, computed in `count` pieces.

    Args:
      encode: pure, row by row: `(params, inputs, keys) -> arrays` with as many rows, in their order. It has all
        parameters, some rows and a key for each, which follows from the row's place in the whole batch: what it draws
        from that depends neither on the pieces nor on the devices.
      params: split over `mesh` as `state_sharding` does.
      inputs: arrays whose first axis is split over `mesh`; the first of them has a row for each of the vectors, others,
        such as packed tokens, may have more or fewer. A piece takes equally many of each device's.
      key: decides the rows' keys.
      count: number of pieces; 1 computes everything at once.
      mesh: the devices.

    Raises:
      UserError: if the rows do not divide.
    """
    rows = jax.tree.leaves(inputs)[0].shape[0]
    check_rows(rows, mesh) if count == 1 else check_pieces(rows, count, mesh)
    specs = state_specs(params, mesh)

    def per_device(params: PyTree[Array], inputs: Inputs, key: Array) -> Vectors:
        params, keys = gather_params(params, specs), row_keys(key, inputs)
        if count == 1:
            return encode(params, inputs, keys)
        # The parameters are closed over, so that the backward pass adds up one gradient of them over the pieces.
        piece = jax.checkpoint(lambda piece: encode(params, *piece))
        encoded = lax.map(piece, split(count, (inputs, keys)))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), encoded)

    by_rows = PartitionSpec(AXES)
    # Unchecked, since attention kernels do not tell on which devices their results vary. The derivative with respect to
    # parameters then is summed over the axes they are whole on, here at the boundary, as it must be.
    encode_all = jax.shard_map(
        per_device, mesh=mesh, in_specs=(specs, by_rows, PartitionSpec()), out_specs=by_rows, check_vma=False
    )
    return encode_all(params, inputs, key)


def row_keys(key: Array, inputs: Any) -> Array:
    """Inside a shard_map: a key for each of the rows, of the first array of `inputs`, that lie on this device."""
    rows = jax.tree.leaves(inputs)[0].shape[0]
    places = lax.axis_index(AXES) * rows + jnp.arange(rows)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def split(count: int, rows: PyTree[Array]) -> PyTree[Array]:
    """Rows `[n, ...]` of each array in pieces `[count, n / count, ...]`."""
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), rows)


def check_pieces(rows: int, count: int, mesh: Mesh) -> None:
    """Refuse pieces that are not of one size.

    Raises:
      UserError: naming rows, pieces and devices.
    """
    if rows % (count * mesh.size):
        raise UserError(
            f"train.microbatches: {count} pieces on {mesh.size} devices do not divide a global batch of {rows} rows. "
            f"Make train.global_batch_size a multiple of {count * mesh.size}."
        )
