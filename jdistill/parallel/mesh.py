"""The devices as one mesh, and where a batch and a replicated value lie on it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jdistill.config import UserError

AXES = ("data", "fsdp")
"""Both axes carry rows of the batch; "fsdp" also splits parameters, see sharding.py."""


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:  # pyright: ignore[reportInvalidTypeForm]
    """The devices as `[data, fsdp]`, so laid out that neighbours on the mesh are near each other on the wires.

    Devices in several slices, TPU pods or CUDA nodes joined by a slower network, are split so that an fsdp group lies
    within one: weights are gathered along "fsdp" at every step, while along "data" only gradients travel, once.

    The axes are Auto, stated because JAX's own default is Explicit, under which a model must name every intermediate.

    Args:
      devices: by default every device of every host.
      fsdp: devices over which parameters and optimizer state are split; 1 holds them whole on each.

    Raises:
      UserError: if the devices, or those of one slice, do not divide into groups of `fsdp`.
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
        raise UserError(f"train.fsdp={fsdp}: the {having} do not divide into such groups. Choose one of {near}.")
    shape = (each // fsdp, fsdp)
    if len(slices) == 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_hybrid_device_mesh(shape, (len(slices), 1), devices, allow_split_physical_axes=True)
    return _by_process(grid)


def _by_process(grid: np.ndarray) -> np.ndarray:
    """The same with the devices of each process next to each other: its rows are one contiguous part of a batch.

    On a TPU slice the shortest way over all chips passes by a host twice; the hosts stay in the order of that way.
    """
    order = {process: i for i, process in enumerate(dict.fromkeys(device.process_index for device in grid.flat))}
    return np.array(sorted(grid.flat, key=lambda device: order[device.process_index])).reshape(grid.shape)


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0) or 0


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Rows, the first axis, split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole value on every device."""
    return NamedSharding(mesh, PartitionSpec())
