"""THE place where a function is run on every device at once, each with its own part of the arrays."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

Specs = PyTree[PartitionSpec]


def run_sharded(
    per_device: Callable[..., Any], *arrays: Any, mesh: Mesh, inputs: Specs, outputs: Specs, checked: bool = True
) -> Any:
    """`per_device(*arrays)`, called on every device with its part of the arrays, by `jax.shard_map`.

    Args:
      per_device: may use collectives over the axes of `mesh`.
      arrays: whole ones.
      mesh: the devices.
      inputs: how each of `arrays` is split, in a tuple.
      outputs: how what `per_device` returns lies.
      checked: whether JAX checks over which devices values vary. Without, as attention kernels need it, the derivative
        with respect to an input is summed at the boundary over the axes that the input is whole on.
    """
    return jax.shard_map(per_device, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=checked)(*arrays)
