"""Data-parallel encoding, of the whole batch or in microbatches (GradCache).

Each device encodes its own rows with its own copy of the parameters, so no activations are communicated, and the
gradient is reduced over devices once, after the last microbatch.

With several microbatches, only the activations of one are in memory, while the loss still uses all vectors of the batch
at once. This is Gao et al. 2021 (arXiv:2101.06983) by means of JAX's rematerialisation: the forward pass keeps only a
microbatch's vectors, and the backward pass encodes each again, with the same dropout. The cost is one more forward
pass.
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
from jdistill.parallel.mesh import AXES, run_sharded
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
    """`encode(params, inputs, keys)`, computed in `count` microbatches.

    Args:
      encode: pure, rows independent: `(params, inputs, keys) -> arrays` with one row per key, in order. It receives all
        parameters, some rows and a key for each. A row's key depends only on its index in the whole batch, so dropout
        does not depend on the number of microbatches or devices.
      params: sharded over `mesh` as by `state_sharding`.
      inputs: arrays whose first axis is sharded over `mesh`; the first has one row per vector, others, such as packed
        tokens, may have more or fewer. Each microbatch has the same number of rows on each device.
      key: PRNG key from which the rows' keys are derived.
      count: number of microbatches; 1 computes everything at once.
      mesh: the devices.

    Raises:
      UserError: if the rows do not divide evenly into the microbatches.
    """
    rows = jax.tree.leaves(inputs)[0].shape[0]
    check_rows(rows, mesh) if count == 1 else check_pieces(rows, count, mesh)
    specs = state_specs(params, mesh)

    def per_device(params: PyTree[Array], inputs: Inputs, key: Array) -> Vectors:
        params, keys = gather_params(params, specs), row_keys(key, inputs)
        if count == 1:
            return encode(params, inputs, keys)
        # Close over the parameters, so that the backward pass sums a single gradient of them over the microbatches.
        encode_one = jax.checkpoint(lambda microbatch: encode(params, *microbatch))
        encoded = lax.map(encode_one, split(count, (inputs, keys)))
        # [count, n / count, ...] -> [n, ...], the inverse of `split`: rows are in their order again.
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), encoded)

    by_rows = PartitionSpec(AXES)
    # checked=False, since attention kernels do not declare over which mesh axes their results vary. The gradient of
    # the parameters is then summed at this boundary over the axes on which they are replicated, as it must be.
    split_by = (specs, by_rows, PartitionSpec())
    return run_sharded(per_device, params, inputs, key, mesh=mesh, inputs=split_by, outputs=by_rows, checked=False)


def row_keys(key: Array, inputs: Any) -> Array:
    """Inside a shard_map: a key for each of this device's rows, which are those of the first array of `inputs`."""
    rows = jax.tree.leaves(inputs)[0].shape[0]
    places = lax.axis_index(AXES) * rows + jnp.arange(rows)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def split(count: int, rows: PyTree[Array]) -> PyTree[Array]:
    """Reshape the rows `[n, ...]` of each array to microbatches `[count, n / count, ...]`."""
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), rows)


def check_pieces(rows: int, count: int, mesh: Mesh) -> None:
    """Raise if the microbatches would not be of equal size.

    Raises:
      UserError: with the numbers of rows, microbatches and devices.
    """
    if rows % (count * mesh.size):
        raise UserError(
            f"train.microbatches: {count} microbatches on {mesh.size} devices do not divide a global batch of {rows} "
            f"rows. Make train.global_batch_size a multiple of {count * mesh.size}."
        )
