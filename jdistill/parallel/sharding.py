"""Sharding of parameters over the "fsdp" axis: one rule, gathering of parameters, reduction of gradients.

Optimizer state has the shapes of the parameters, so the same rule shards each moment like its parameter, and the update
needs no communication.
"""

from typing import TypeVar

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jdistill.parallel.mesh import AXES

Tree = TypeVar("Tree")

SMALLEST = 2**16
"""Minimum number of elements of a sharded array: 256 KiB in float32. All matrices and tables of a 384-wide encoder are
larger; biases and norms are smaller, and gathering them would cost more than the memory saved is worth."""


def state_sharding(tree: Tree, mesh: Mesh) -> Tree:
    """Sharding of each array of a state: large arrays are split over "fsdp" along their longest divisible axis.

    Args:
      tree: arrays, or anything with their shapes.
      mesh: the devices.

    Returns:
      A NamedSharding for each: replicated if the array has fewer than `SMALLEST` elements or no divisible axis. Of
      equally long axes the first is split.
    """
    return jax.tree.map(lambda x: NamedSharding(mesh, _spec(x.shape, mesh)), tree)


def state_specs(tree: Tree, mesh: Mesh) -> Tree:
    """`state_sharding` as PartitionSpecs, for a shard_map."""
    return jax.tree.map(lambda x: _spec(x.shape, mesh), tree)


def _spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    size, elements = mesh.shape["fsdp"], 1
    for n in shape:
        elements *= n
    fitting = [axis for axis, n in enumerate(shape) if n % size == 0]
    if size == 1 or elements < SMALLEST or not fitting:
        return PartitionSpec()
    longest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, "fsdp")


def gather_params(params: PyTree[Array], specs: PyTree[PartitionSpec]) -> PyTree[Array]:
    """Inside a shard_map: gather this device's shards of the parameters into whole, device-varying ones.

    Args:
      params: shards as by `state_sharding`.
      specs: `state_specs` of the whole parameters.
    """

    def whole(x: Array, spec: PartitionSpec) -> Array:
        return lax.all_gather(x, "fsdp", axis=spec.index("fsdp"), tiled=True) if "fsdp" in spec else x

    return jax.tree.map(whole, params, specs)


def reduce_gradients(gradients: PyTree[Array], specs: PyTree[PartitionSpec]) -> PyTree[Array]:
    """Inside a shard_map: each device's gradient of all parameters -> this device's shard of the sum over devices.

    The transpose of `gather_params`: a reduce-scatter along "fsdp", then an all-reduce of the shard along "data".
    """

    def part(x: Array, spec: PartitionSpec) -> Array:
        if "fsdp" not in spec:
            return lax.psum(x, AXES)
        # Along fsdp first, so that only a shard is reduced along data, which may cross a slower network.
        return lax.psum(lax.psum_scatter(x, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True), "data")

    return jax.tree.map(part, gradients, specs)
