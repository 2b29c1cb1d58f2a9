import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jdistill.parallel import make_mesh, replicated, row_sharding


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_every_device_lies_on_the_data_axis(devices: int) -> None:
    mesh = make_mesh(jax.devices()[:devices])
    assert dict(mesh.shape) == {"data": devices, "fsdp": 1}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_rows_are_split_and_other_values_are_whole() -> None:
    mesh = make_mesh()
    x = np.zeros((16, 3), np.float32)
    assert {s.data.shape for s in jax.device_put(x, row_sharding(mesh)).addressable_shards} == {(2, 3)}
    assert {s.data.shape for s in jax.device_put(x, replicated(mesh)).addressable_shards} == {(16, 3)}
