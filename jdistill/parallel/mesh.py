"""The devices as one mesh, and where a batch and a replicated value lie on it."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
"""Both axes carry rows of the batch; "fsdp" will also split parameters."""


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:  # pyright: ignore[reportInvalidTypeForm]
    """All devices on the axis "data", one on "fsdp".

    The axes are Auto, stated because JAX's own default is Explicit, under which a model must name every intermediate.

    Args:
      devices: by default every device of every host.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices), 1), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Rows, the first axis, split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole value on every device."""
    return NamedSharding(mesh, PartitionSpec())
