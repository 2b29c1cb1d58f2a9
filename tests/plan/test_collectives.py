"""What the chips send each other, counted and timed by hand."""

import pytest

from jdistill.plan.collectives import Collective, find_collectives, group_size, seconds, slice_rate
from jdistill.plan.hlo import count_runs, parse_hlo
from jdistill.plan.topology import parse_topology
from tests.plan.program import TEXT


def test_collectives_of_a_program():
    program = parse_hlo(TEXT)
    found = find_collectives(program, count_runs(program), chips=8)
    assert set(found) == {
        Collective("all-gather", group=4, count=1, bytes=32 * 128 * 4, in_loops=0),  # spread over two fusions, but one
        Collective("all-reduce", group=4, count=4, bytes=4 * 8 * 128 * 4, in_loops=4),
        Collective("reduce-scatter", group=4, count=1, bytes=4 * 8 * 128 * 4, in_loops=0),  # before it: 4 parts
    }


def test_a_permute_that_starts_and_ends_is_one():
    text = (
        "ENTRY %main (x: f32[8,128]) -> f32[8,128] {\n"
        "  %x = f32[8,128]{1,0:T(8,128)} parameter(0)\n"
        "  %s = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[], u32[]) collective-permute-start(%x), "
        "source_target_pairs={{0,1},{1,0}}\n"
        "  ROOT %d = f32[8,128]{1,0} collective-permute-done(%s)\n"
        "}\n"
    )
    program = parse_hlo(text)
    assert find_collectives(program, count_runs(program), chips=2) == [Collective("collective-permute", 2, 1, 4096, 0)]


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
    assert group_size(text, chips=16) == size


def test_time_on_the_links_by_hand():
    v5e, whole, h100 = (parse_topology(name) for name in ("v5e:4x4", "v5e:16x16", "h100:8"))
    # A 4x4 slice closes no ring: one way along each of two axes. A full pod goes both ways round.
    assert slice_rate(v5e) == 2 * 45e9
    assert slice_rate(whole) == 4 * 45e9
    assert slice_rate(parse_topology("v5p:4x4x4")) == 6 * 90e9
    assert slice_rate(parse_topology("v5p:2x2x1")) == 2 * 90e9
    gather = Collective("all-gather", 16, 1, 90 * 10**6, 0)
    assert seconds(gather, v5e) == pytest.approx(90e6 * 15 / 16 / 90e9)
    assert seconds(gather._replace(kind="all-reduce"), v5e) == pytest.approx(2 * 90e6 * 15 / 16 / 90e9)
    assert seconds(gather._replace(group=4), v5e) == pytest.approx(90e6 * 3 / 4 / 45e9)  # along one axis
    assert seconds(gather._replace(kind="collective-permute"), v5e) == pytest.approx(90e6 / 45e9)
    assert seconds(gather._replace(group=8), h100) == pytest.approx(90e6 * 7 / 8 / 450e9)
    assert seconds(gather._replace(group=1), v5e) == 0.0
