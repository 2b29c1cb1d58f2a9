"""Lower bounds on a step's time, by hand."""

import pytest

from jdistill.plan.collectives import Collective
from jdistill.plan.roofline import link_rate, roofline, seconds
from jdistill.plan.topology import parse_topology

V5E = parse_topology("v5e:4x4")
GATHER = Collective("all-gather", 16, 3, 16 * 10**8 // 15, 0)
"""100 MB arrive at each of 16 chips."""


def test_a_roofline_by_hand():
    found = roofline(V5E, flops=197e9, traffic=819e6, collectives=[GATHER], dtype="bfloat16")
    assert found.compute == pytest.approx(1e-3)
    assert found.memory == pytest.approx(1e-3)
    assert found.communication == pytest.approx(1e-3)  # over two links of 50 GB/s
    for flops, traffic, collectives, bound in (
        (3e9, 1e9, [], "memory"),
        (3e12, 1e9, [GATHER], "compute"),
        (1, 1, [GATHER], "communication"),
    ):
        found = roofline(V5E, flops=flops, traffic=traffic, collectives=collectives, dtype="bfloat16")
        assert found.bound == bound
        assert found.seconds == max(found)


def test_float32_runs_at_half_the_rate_on_cuda_only():
    for name, factor in (("h100:8", 989 / 494), ("v5e:4x4", 1.0)):
        slow, fast = (
            roofline(parse_topology(name), flops=1e12, traffic=1, collectives=[], dtype=dtype).compute
            for dtype in ("float32", "bfloat16")
        )
        assert slow / fast == pytest.approx(factor)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("v5e:4x4", 2 * 50e9),  # closes no ring: at a corner, one link along each of two axes
        ("v5e:16x16", 4 * 50e9),
        ("v5p:4x4x4", 6 * 100e9),
        ("v5p:2x2x1", 2 * 100e9),
        ("v6e:8x8", 2 * 100e9),
        ("h100:8", 450e9),
        ("h100:16", 50e9),
    ],
)
def test_links_of_a_chip(name, rate):
    assert link_rate(parse_topology(name)) == rate


def test_what_arrives_at_each_chip():
    assert seconds(GATHER, V5E) == pytest.approx(1e-3)
    assert seconds(GATHER._replace(kind="all-reduce"), V5E) == pytest.approx(2e-3)
    assert seconds(GATHER._replace(kind="collective-permute"), V5E) == pytest.approx(16 / 15 * 1e-3)
    assert seconds(GATHER._replace(group=1), V5E) == 0.0
