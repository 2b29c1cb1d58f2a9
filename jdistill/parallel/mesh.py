"""The device mesh, the shardings of a batch and of a replicated value, and running a function on every device."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jdistill.config import UserError

AXES = ("data", "fsdp")
"""Both axes shard the rows of the batch; "fsdp" also shards parameters, see sharding.py."""

EMPTY_ARRAYS_CRASH = jax.__version_info__[:2] == (0, 11)
"""The compiler of jaxlib 0.11 crashes (pass shardy-xla) where an array without elements leaves a shard_map, as what a
loss keeps for its backward pass does: the hard negatives of rows that have none, for example."""

Specs = PyTree[PartitionSpec]


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:  # pyright: ignore[reportInvalidTypeForm]
    """The devices as a mesh `[data, fsdp]`, laid out so that neighbours on the mesh are physically close.

    With several slices (TPU slices or CUDA nodes connected by a slower network), an fsdp group is always within one
    slice: weights are gathered along "fsdp" in every step, while only gradients are reduced along "data", once.

    The axes are Auto; with JAX's default, Explicit, a model would have to give the sharding of every intermediate.

    Args:
      devices: by default every device of every host.
      fsdp: number of devices over which parameters and optimizer state are sharded; 1 replicates them.

    Raises:
      UserError: if the devices, or those of one slice, do not divide evenly into groups of `fsdp`.
    """
    grid = lay_out(jax.devices() if devices is None else devices, fsdp)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def lay_out(devices: Sequence[Any], fsdp: int) -> np.ndarray:
    """The devices as `[data, fsdp]`; raises as `make_mesh` does."""
    slices = Counter(_slice(device) for device in devices)
    each = min(slices.values())
    if each % fsdp:
        having = f"{each} devices" if len(slices) == 1 else f"{each} devices of each of {len(slices)} slices"
        near = ", ".join(str(n) for n in range(1, each + 1) if each % n == 0)
        raise UserError(
            f"train.fsdp={fsdp}: the {having} do not divide into groups of that size. Choose one of {near}."
        )
    shape = (each // fsdp, fsdp)
    # allow_split_physical_axes: otherwise some shapes, such as groups smaller than an axis of the chips' torus, are
    # refused.
    if len(slices) == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_hybrid_device_mesh(shape, (len(slices), 1), devices, allow_split_physical_axes=True)
    return _by_process(grid)


def _by_process(grid: np.ndarray) -> np.ndarray:
    """The grid with the devices of each process adjacent, so that its rows are one contiguous part of a batch.

    On a TPU slice the shortest path over all chips visits a host twice; hosts are ordered by their first visit.
    """
    order = {process: i for i, process in enumerate(dict.fromkeys(device.process_index for device in grid.flat))}
    return np.array(sorted(grid.flat, key=lambda device: order[device.process_index])).reshape(grid.shape)


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0) or 0


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of rows, the first axis, over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of a value that is replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def run_sharded(
    per_device: Callable[..., Any], *arrays: Any, mesh: Mesh, inputs: Specs, outputs: Specs, checked: bool = True
) -> Any:
    """Run `per_device` on every device with its shard of the arrays. The only use of `jax.shard_map` in the package.

    Args:
      per_device: function of one device's shards; may use collectives over the axes of `mesh`.
      arrays: global arrays, or trees of them.
      mesh: the devices.
      inputs: a tuple with the PartitionSpecs of each of `arrays`.
      outputs: the PartitionSpecs of the result.
      checked: whether JAX tracks over which mesh axes values vary. Attention kernels need False; then the gradient of a
        replicated input is summed at this boundary over the axes on which it is replicated.
    """
    if EMPTY_ARRAYS_CRASH and checked:  # losses are; encoding is not, and has no such arrays
        per_device = jax.checkpoint(per_device, policy=_has_elements, prevent_cse=False)
    return jax.shard_map(per_device, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=checked)(*arrays)


def _has_elements(primitive: Any, *operands: Any, **options: Any) -> bool:
    """Rematerialisation policy: keep every result for the backward pass, except arrays without elements."""
    made = options.get("shape") or options.get("slice_sizes") or ()
    if primitive.name == "slice":
        made = np.subtract(options["limit_indices"], options["start_indices"])
    return 0 not in made and all(0 not in getattr(x, "shape", ()) for x in operands)
