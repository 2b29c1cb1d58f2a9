from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jdistill.config import UserError
from jdistill.parallel import make_mesh, replicated, row_sharding
from jdistill.parallel.mesh import lay_out


@dataclass(frozen=True)
class FakeDevice:
    """What the layout of a mesh looks at."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cuda"
    device_kind: str = "a chip"


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_every_device_is_on_the_data_axis(devices: int) -> None:
    mesh = make_mesh(jax.devices()[:devices])
    assert dict(mesh.shape) == {"data": devices, "fsdp": 1}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)


def test_groups_of_fsdp_are_neighbours() -> None:
    mesh = make_mesh(fsdp=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
    assert [[d.id for d in group] for group in mesh.devices] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_groups_of_fsdp_are_within_a_slice(fsdp: int) -> None:
    devices = [FakeDevice(id=i, slice_index=i % 2) for i in range(8)]
    grid = lay_out(devices, fsdp)
    assert grid.shape == (8 // fsdp, fsdp)
    assert all(len({d.slice_index for d in group}) == 1 for group in grid)
    assert [d.slice_index for d in grid[:, 0]] == [0] * (4 // fsdp) + [1] * (4 // fsdp)
    assert sorted(d.id for d in grid.flat) == list(range(8))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_process_holds_a_contiguous_part_of_the_rows(fsdp: int) -> None:
    devices = [FakeDevice(id=i, slice_index=i // 8, process_index=10 * (i // 8) - i % 2) for i in range(16)]
    owners = [device.process_index for device in lay_out(devices, fsdp).flat]
    assert owners == [process for process in (0, -1, 10, 9) for _ in range(4)]


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"train\.fsdp=3: the 8 devices do not divide.*1, 2, 4, 8\."):
        make_mesh(fsdp=3)
    devices = [FakeDevice(id=i, slice_index=i % 2) for i in range(8)]
    with pytest.raises(UserError, match=r"train\.fsdp=8: the 4 devices of each of 2 slices.*1, 2, 4\."):
        lay_out(devices, 8)


def test_rows_are_split_and_other_values_are_whole() -> None:
    x = np.zeros((16, 3), np.float32)
    for mesh in (make_mesh(), make_mesh(fsdp=4)):
        assert {s.data.shape for s in jax.device_put(x, row_sharding(mesh)).addressable_shards} == {(2, 3)}
        assert {s.data.shape for s in jax.device_put(x, replicated(mesh)).addressable_shards} == {(16, 3)}
