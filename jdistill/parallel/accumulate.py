"""Gradient accumulation, for losses in which rows are independent.

Forward and backward pass of one microbatch are complete before the next one starts, so nothing is recomputed.
Each device sums the gradient of its own rows; one reduction over devices follows the last one. The loop contains no
collective, so it cannot be affected by the compiler bug openxla/xla#49143, which moved one out of a loop.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from jdistill.parallel.mesh import AXES, run_sharded
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
    """Mean of `loss_fn` over a batch and its gradient, computed in `count` microbatches on each device.

    Args:
      loss_fn: `(params, some rows of the batch, a key for each, shared) -> (loss, more)`, means over these rows, which
        must be independent of each other. It runs inside a shard_map.
      params: sharded over `mesh` as by `state_sharding`; so is their gradient.
      batch: arrays as the `inputs` of `in_microbatches`.
      key: PRNG key from which the rows' keys are derived, as in `in_microbatches`.
      shared: values common to all rows.
      count: number of microbatches.
      mesh: the devices.

    Returns:
      `((loss, more), gradient)`, as `jax.value_and_grad(loss_fn, has_aux=True)` would for the whole batch.

    Raises:
      UserError: if the rows do not divide evenly into the microbatches.
    """
    check_pieces(jax.tree.leaves(batch)[0].shape[0], count, mesh)
    specs = state_specs(params, mesh)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def per_device(params: Params, batch: Any, key: Array, shared: Any) -> tuple[Values, Params]:
        # Once for all microbatches; gathering inside the loop would repeat it, and put a collective there.
        own = gather_params(params, specs)
        microbatches = split(count, (batch, row_keys(key, batch)))

        def add(total: Any, microbatch: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, value_and_grad(own, *microbatch, shared)), None

        # The loop's carry must have its final form from the start: zeros like ((loss, more), gradient), whose forms
        # eval_shape finds without computing. A gradient has the form of what it belongs to, `own`.
        first = jax.tree.map(lambda x: x[0], microbatches)
        forms = jax.eval_shape(lambda: value_and_grad(own, *first, shared)[0])
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (forms, own))
        total, _ = lax.scan(add, nothing, microbatches)
        # All have equally many rows, so the mean of their means, over all devices, is that of the batch. The sums
        # over devices follow.
        values, gradient = jax.tree.map(lambda x: x / (count * mesh.size), total)
        return lax.psum(values, AXES), reduce_gradients(gradient, specs)

    whole, by_rows = PartitionSpec(), PartitionSpec(AXES)
    return run_sharded(
        per_device,
        *(params, batch, key, shared),
        mesh=mesh,
        inputs=(specs, by_rows, whole, whole),
        outputs=(whole, specs),
        checked=False,  # as in microbatches.py; nothing differentiates this from outside
    )
