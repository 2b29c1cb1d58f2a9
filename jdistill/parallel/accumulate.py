"""Plain gradient accumulation, for losses that look at one row at a time.

A piece of the batch is encoded, judged and differentiated before the next is begun, so nothing is computed twice. Each
device adds up the gradient of its own rows; it crosses the devices once, after the last piece. There is no collective
in the loop, which is also why no compiler can move one out of it wrongly (openxla/xla#49143 did).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from jdistill.parallel.mesh import AXES
from jdistill.parallel.microbatches import check_pieces, row_keys, split
from jdistill.parallel.sharding import gather_params, reduce_gradients, state_specs

Params = TypeVar("Params")
Values = tuple[Array, PyTree[Array]]


def accumulated(
    loss_fn: Callable[[Params, Any, Array, Any], Values],
    params: Params,
    batch: PyTree[Array],
    key: Array,
    shared: PyTree[Array],
    *,
    count: int,
    mesh: Mesh,
) -> tuple[Values, Params]:
    """Mean of `loss_fn` over a batch and its gradient, computed in `count` pieces on each device.

    Args:
      loss_fn: `(params, some rows of the batch, a key for each, shared) -> (loss, more)`, means over these rows, in
        which no row looks at another. It runs inside a shard_map.
      params: split over `mesh` as `state_sharding` does; so is their gradient.
      batch: arrays as the `inputs` of `in_microbatches`.
      key: decides the rows' keys, as in `in_microbatches`.
      shared: what all rows have in common.
      count: number of pieces.
      mesh: the devices.

    Returns:
      `((loss, more), gradient)`, as `jax.value_and_grad(loss_fn, has_aux=True)` would for the whole batch.

    Raises:
      UserError: if the rows do not divide.
    """
    check_pieces(jax.tree.leaves(batch)[0].shape[0], count, mesh)
    specs = state_specs(params, mesh)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def per_device(params: Params, batch: Any, key: Array, shared: Any) -> tuple[Values, Params]:
        own = gather_params(params, specs)
        pieces = split(count, (batch, row_keys(key, batch)))

        def add(total: Any, piece: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, value_and_grad(own, *piece, shared)), None

        first = jax.tree.map(lambda x: x[0], pieces)
        forms = jax.eval_shape(lambda: value_and_grad(own, *first, shared)[0])
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (forms, own))
        total, _ = lax.scan(add, nothing, pieces)
        values, gradient = jax.tree.map(lambda x: x / (count * mesh.size), total)
        return lax.psum(values, AXES), reduce_gradients(gradient, specs)

    whole, by_rows = PartitionSpec(), PartitionSpec(AXES)
    run = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(specs, by_rows, whole, whole),
        out_specs=(whole, specs),
        check_vma=False,  # as in microbatches.py; nothing differentiates this from outside
    )
    return run(params, batch, key, shared)
