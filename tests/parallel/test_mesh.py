from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jdistill.config import UserError
from jdistill.parallel import make_mesh, replicated, row_sharding
from jdistill.parallel.mesh import AXES, EMPTY_ARRAYS_CRASH, lay_out, run_sharded


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


@pytest.mark.parametrize("crashes", [False, True])
def test_no_array_without_elements_crosses_where_the_compiler_crashes(
    crashes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without hard negatives: their share of the loss is an array of none, and so is what its derivative needs."""
    monkeypatch.setattr("jdistill.parallel.mesh.EMPTY_ARRAYS_CRASH", crashes or EMPTY_ARRAYS_CRASH)
    x = jnp.arange(32.0).reshape(16, 1, 2)

    def per_device(x: jax.Array) -> jax.Array:
        first, others = jnp.sin(x[:, 0]), jnp.sin(x[:, 1:] * jnp.cos(x[:, 1:]))
        return jax.lax.pmean(first.mean() + others.sum(), AXES)

    def loss(x: jax.Array) -> jax.Array:
        return run_sharded(per_device, x, mesh=make_mesh(), inputs=PartitionSpec(AXES), outputs=PartitionSpec())

    gradient = jax.grad(loss)
    np.testing.assert_allclose(jax.jit(gradient)(x), np.cos(x) / 32, rtol=1e-6)
    crossing = [
        v.aval.size for e in jax.make_jaxpr(gradient)(x).eqns if "shard_map" in str(e.primitive) for v in e.outvars
    ]
    assert crossing
    if crashes:
        assert all(crossing)
