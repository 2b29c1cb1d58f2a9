"""Which parameters are split over the axis "fsdp", by one rule; how a device gets them whole and gives gradients back.

Optimizer state has the shapes of the parameters, so the same rule puts each moment beside its parameter, and the update
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
"""Elements from which on an array is split. All matrices and tables of a 384-wide encoder are larger; biases and norms
are smaller, and to gather one would take longer than the memory is worth: 256 KiB in float32."""


def state_sharding(tree: Tree, mesh: Mesh) -> Tree:
    """Where each array of a state lies: its largest axis that divides is split over "fsdp", if it is large.

    Args:
      tree: arrays, or anything with their shapes.
      mesh: the devices.

    Returns:
      A NamedSharding for each: whole on every device where the array has fewer than `SMALLEST` elements, or no axis
      that divides. Of equally long axes the first is split.
    """
    return jax.tree.map(lambda x: NamedSharding(mesh, _spec(x.shape, mesh)), tree)


def state_specs(tree: Tree, mesh: Mesh) -> Tree:
    """The same as PartitionSpecs, for a shard_map."""
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
    """Inside a shard_map: this device's part of the parameters -> all of them, as the device's own copy.

    Args:
      params: as `state_sharding` splits them.
      specs: of each; `state_specs` of the whole parameters.
    """

    def whole(x: Array, spec: PartitionSpec) -> Array:
        return lax.all_gather(x, "fsdp", axis=spec.index("fsdp"), tiled=True) if "fsdp" in spec else x

    return jax.tree.map(whole, params, specs)


def reduce_gradients(gradients: PyTree[Array], specs: PyTree[PartitionSpec]) -> PyTree[Array]:
    """Inside a shard_map: each device's gradient of all parameters -> the sum over devices, of this device's part.

    What a derivative through `gather_params` does too: a reduce-scatter along "fsdp" and, of the one part in `fsdp`
    that is left, an all-reduce along "data".
    """

    def part(x: Array, spec: PartitionSpec) -> Array:
        if "fsdp" not in spec:
            return lax.psum(x, AXES)
        return lax.psum(lax.psum_scatter(x, "fsdp", scatter_dimension=spec.index("fsdp"), tiled=True), "data")

    return jax.tree.map(part, gradients, specs)
