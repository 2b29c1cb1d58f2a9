"""GradCache: encode a batch piece by piece, so that memory holds the activations of one piece only.

The loss still sees all vectors of the batch at once. JAX's rematerialisation does what Gao et al. 2021
(arXiv:2101.06983) do by hand: the forward pass keeps nothing of a piece but its vectors, and the backward pass encodes
each piece again, with the same dropout, when it needs the gradient. One more forward pass is the whole price.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jdistill.config import UserError
from jdistill.parallel.mesh import AXES

Inputs = TypeVar("Inputs")
Vectors = TypeVar("Vectors")


def in_microbatches(
    encode: Callable[[Inputs, Array], Vectors], inputs: Inputs, key: Array, *, count: int, mesh: Mesh
) -> Vectors:
    """`encode(inputs, key)`, computed in `count` pieces.

    Args:
      encode: pure, row by row: `(inputs, key) -> arrays` with as many rows, in their order; each piece has its own key.
      inputs: arrays whose rows, the first axis, are split over `mesh`. A piece takes equally many rows of each device,
        so no row moves.
      key: decides the pieces' keys.
      count: number of pieces; 1 computes everything at once.
      mesh: where the rows lie.

    Raises:
      UserError: if the rows do not divide.
    """
    if count == 1:
        return encode(inputs, key)
    rows = jax.tree.leaves(inputs)[0].shape[0]
    if rows % (count * mesh.size):
        raise UserError(
            f"train.microbatches: {count} pieces on {mesh.size} devices do not divide a global batch of {rows} rows. "
            f"Make train.global_batch_size a multiple of {count * mesh.size}."
        )
    pieces = jax.tree.map(lambda x: _split(x, count, mesh), inputs)
    keys = jax.random.split(key, count)
    encoded = lax.map(lambda piece: jax.checkpoint(encode)(*piece), (pieces, keys))
    return jax.tree.map(lambda x: _merge(x, mesh), encoded)


def _split(x: PyTree[Array], count: int, mesh: Mesh) -> Array:
    """`[n, ...] -> [count, n / count, ...]`; with D devices, row `(device, piece, i)` goes to `(piece, device, i)`."""
    by_device = x.reshape(mesh.size, count, -1, *x.shape[1:]).swapaxes(0, 1)
    pieces = by_device.reshape(count, -1, *x.shape[1:])
    return lax.with_sharding_constraint(pieces, NamedSharding(mesh, PartitionSpec(None, AXES)))


def _merge(x: PyTree[Array], mesh: Mesh) -> Array:
    """What `_split` took apart."""
    count = x.shape[0]
    by_piece = x.reshape(count, mesh.size, -1, *x.shape[2:]).swapaxes(0, 1)
    rows = by_piece.reshape(-1, *x.shape[2:])
    return lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec(AXES)))
