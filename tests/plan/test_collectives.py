"""What devices send each other, counted by hand: in programs as the TPU compiler writes them, and in compiled ones."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jdistill.parallel import make_mesh
from jdistill.parallel.mesh import AXES
from jdistill.plan.collectives import Collective, Found, find_collectives, group_size
from tests.plan.program import KERNEL_TEXT, TEXT


def test_collectives_of_a_scheduled_program():
    found = find_collectives(TEXT, devices=8)
    assert found.unknown_loops == 0
    assert set(found.collectives) == {
        Collective("all-gather", group=4, count=1, bytes=32 * 128 * 4, in_loops=0),  # spread over two fusions, but one
        Collective("all-reduce", group=4, count=4, bytes=4 * 8 * 128 * 4, in_loops=4),
        Collective("reduce-scatter", group=4, count=1, bytes=4 * 8 * 128 * 4, in_loops=0),  # before it: 4 parts
    }


def program(*lines: str) -> str:
    return "\n".join(
        ("ENTRY %main (x: f32[8,128]) -> f32[8,128] {", *(f"  {line}" for line in lines), "}"),
    )


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (
            "%s = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", 2, 1, 4096, 0),
        ),
        (
            "%s = (bf16[8,128]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)}) all-gather-start(%x), "
            "replica_groups={{0,1}}, dimensions={0}",
            Collective("all-gather", 2, 1, 16 * 128 * 2, 0),
        ),
        (
            "%s = (f32[8,128]{1,0:T(8,128)}, s32[4]{0:T(128)}) all-reduce-start(%x, %y), replica_groups={}, "
            "to_apply=%add",
            Collective("all-reduce", 2, 1, 4096 + 16, 0),
        ),
        (
            "%s = ((f32[8,128]{1,0}), f32[4,128]{1,0}, u32[]) reduce-scatter-start(%x), replica_groups=[1,2]<=[2]",
            Collective("reduce-scatter", 2, 1, 4096, 0),
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Collective) else "",
)
def test_one_that_starts_and_is_done_counts_once(start, found):
    kind = start.split("-start(")[0].rpartition(" ")[2]
    text = program("%x = f32[8,128]{1,0} parameter(0)", start, f"ROOT %d = f32[8,128]{{1,0}} {kind}-done(%s)")
    assert find_collectives(text, devices=2) == Found([found], 0)


def test_one_inside_an_asynchronous_call_counts_once():
    inside = (
        "%wrapped (p: f32[8,128]) -> f32[8,128] {\n"
        "  ROOT %all-to-all.1 = f32[8,128]{1,0} all-to-all(%p), replica_groups={{0,1}}, dimensions={0}\n}\n"
    )
    text = inside + program(
        "%s = ((f32[8,128]), f32[8,128], u32[]) async-start(%x), calls=%wrapped",
        "ROOT %d = f32[8,128]{1,0} async-done(%s), calls=%wrapped",
    )
    assert find_collectives(text, devices=2).collectives == [Collective("all-to-all", 2, 1, 4096, 0)]


def test_loops_state_their_turns_or_are_counted_once():
    known = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert Collective("all-reduce", 4, 7, 7 * 4096, 7) in find_collectives(known, 8).collectives
    endless = find_collectives(TEXT.replace("direction=LT", "direction=NE"), 8)
    assert endless.unknown_loops == 1
    assert Collective("all-reduce", 4, 1, 4096, 1) in endless.collectives


def test_other_texts():
    assert find_collectives(KERNEL_TEXT, devices=1) == Found([], 0)  # a loop of unknown turns would not matter here
    with pytest.raises(ValueError, match="no ENTRY"):
        find_collectives("HloModule empty", devices=1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[2,8]<=[16]", 8),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8),
        ("replica_groups={}", 16),
    ],
)
def test_group_sizes(text, size):
    assert group_size(text, devices=16) == size


def test_a_program_on_eight_devices_by_hand():
    """Every kind once or in a loop of 5 turns, on shards of `[2, 24]` float32, 192 bytes, over 8 or 4 devices."""
    mesh = make_mesh(jax.devices(), fsdp=2)  # 4 x 2
    wide, rows = AXES, AXES[0]

    def local(x):
        whole = lax.all_gather(x, wide, tiled=True)  # [16, 24]
        parts = lax.psum_scatter(jnp.sin(whole), wide, tiled=True)  # from [16, 24] to [2, 24]
        turned = lax.all_to_all(jnp.cos(parts).reshape(4, 12), rows, 0, 0)  # [4, 12] over 4
        x = parts + turned.reshape(2, 24)

        def turn(carry, _):
            passed = lax.ppermute(carry, wide, [(i, (i + 1) % 8) for i in range(8)])
            return jnp.tanh(passed), None

        x, _ = lax.scan(turn, x, length=5)
        return lax.psum(x, rows)

    spec = PartitionSpec(wide)
    step = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(wide[1:])),
    )
    x = jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=NamedSharding(mesh, spec))
    found = find_collectives(step.lower(x).compile().as_text(), devices=8)
    assert found.unknown_loops == 0
    assert set(found.collectives) == {
        Collective("all-gather", 8, 1, 16 * 24 * 4, 0),
        Collective("reduce-scatter", 8, 1, 16 * 24 * 4, 0),
        Collective("all-to-all", 4, 1, 2 * 24 * 4, 0),
        Collective("collective-permute", 8, 5, 5 * 2 * 24 * 4, 5),
        Collective("all-reduce", 4, 1, 2 * 24 * 4, 0),
    }
