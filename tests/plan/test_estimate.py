"""Rooflines and the line that finds the largest batch, by hand."""

import pytest

from jdistill.plan.collectives import Collective
from jdistill.plan.estimate import MANY, Largest, largest_batch, roofline
from jdistill.plan.topology import parse_topology
from jdistill.plan.verdict import verdict
from tests.plan.tiny_job import tiny_job

GIB = 2**30
V5E = parse_topology("v5e:4x4")


def test_a_roofline_by_hand():
    gather = Collective("all-gather", 16, 3, 96 * 10**6, 0)
    found = roofline(V5E, flops=197e9, traffic=0.81e9, collectives=[gather], dtype="bfloat16")
    assert found.compute == pytest.approx(1e-3)
    assert found.memory == pytest.approx(1e-3)
    assert found.communication == pytest.approx(1e-3)  # 96 MB * 15/16 over two axes of 45 GB/s
    assert roofline(V5E, flops=3e9, traffic=1e9, collectives=[], dtype="bfloat16").bound == "memory"
    assert roofline(V5E, flops=3e12, traffic=1e9, collectives=[gather], dtype="bfloat16").bound == "compute"
    assert roofline(V5E, flops=1, traffic=1, collectives=[gather], dtype="bfloat16").bound == "communication"


def test_float32_runs_at_half_the_rate_on_cuda_only():
    for name, factor in (("h100:8", 989 / 494), ("v5e:4x4", 1.0)):
        slow, fast = (
            roofline(parse_topology(name), flops=1e12, traffic=1, collectives=[], dtype=dtype).compute
            for dtype in ("float32", "bfloat16")
        )
        assert slow / fast == pytest.approx(factor)


def largest(fixed: int, slope: int, rows: int, *, unit: int = 16, capacity: int = 16 * GIB):
    """The search over chips on which memory is a straight line, and how many sizes it tried."""
    tried = []

    def total(rows: int) -> int | None:
        tried.append(rows)
        need = fixed + rows * slope
        return need if need <= capacity else None

    need = fixed + rows * slope
    first, needed = (need, None) if need <= capacity else (None, need)
    found = largest_batch(
        total, rows, unit=unit, capacity=capacity, first=first, needed=needed, tried_by="both computed"
    )
    return found, tried


def test_the_largest_batch_lies_on_the_line():
    found, tried = largest(fixed=GIB, slope=2**20, rows=1024)
    assert tried == [512]
    assert found.rows == 15 * 1024
    assert "512 and 1,024 rows, both computed: 1,024.0 KiB per row" in found.how


def test_the_largest_batch_is_a_multiple_of_what_devices_and_pieces_ask_for():
    found, _ = largest(fixed=GIB, slope=10**6, rows=4096, unit=1024)
    assert found.rows == (15 * GIB // 10**6) // 1024 * 1024


def test_a_batch_that_does_not_fit_leads_to_one_that_does():
    found, tried = largest(fixed=GIB, slope=2**20, rows=65536)
    assert found.rows == 15 * 1024
    assert all(rows < 65536 for rows in tried)
    assert len(tried) <= 3


def test_a_line_is_not_trusted_far_out():
    found, _ = largest(fixed=GIB, slope=1, rows=1024)
    assert found.rows == MANY * 1024
    assert "room for more" in found.how


def test_where_nothing_smaller_divides_there_is_no_line():
    found, tried = largest(fixed=GIB, slope=2**20, rows=16)
    assert (found.rows, tried) == (16, [])
    assert "no batch below 16 rows" in found.how
    found, _ = largest(fixed=17 * GIB, slope=2**20, rows=64)
    assert found.rows == 0


def lines(**changes) -> str:
    """A verdict on a step that fits, unless changed."""
    known = {
        "used": 4 * GIB,
        "needed": None,
        "state": GIB,
        "estimate": roofline(V5E, flops=1e12, traffic=1e9, collectives=[], dtype="bfloat16"),
        "largest": None,
    }
    job = changes.pop("job", tiny_job(global_batch_size=65536))
    return "\n".join(verdict(job, V5E, **known | changes))


def test_verdicts_say_what_to_change():
    from jdistill.plan.estimate import Largest

    assert lines().startswith("fits: 4.0 of 15.8 GiB per chip.\ncompute-bound")
    assert "tight" in lines(used=int(15.5 * GIB))
    assert "train.fsdp" in lines(state=8 * GIB)
    refused = lines(used=None, needed=40 * GIB, largest=Largest(24_000, "a line"))
    assert "does not fit: 15.8 GiB per chip (needs 40.0 GiB). Set train.microbatches=4" in refused
    assert "Raise train.microbatches and train.fsdp" in lines(used=None, needed=40 * GIB, largest=Largest(0, ""))
    assert "may not fit, by an estimate without fusion: " in lines(used=40 * GIB, compiled=False)
    slow = roofline(V5E, flops=1, traffic=1e9, collectives=[], dtype="bfloat16")
    assert "memory-bound" in lines(estimate=slow)
    far = roofline(V5E, flops=1, traffic=1, collectives=[Collective("all-reduce", 16, 1, 10**9, 0)], dtype="bfloat16")
    assert "communication-bound" in lines(estimate=far)
    assert "encodes only 192 tokens at a time" in lines(job=tiny_job(global_batch_size=64))


def test_a_folded_step_is_cut_into_pieces_that_fold():
    """128 rows on 16 chips: in 8 pieces each has one row, which is no pair."""
    plain = tiny_job(global_batch_size=128)
    folded = plain._replace(rows=plain.rows.folded(32, 64))
    for fit, job, change in (
        (32, plain, "Set train.microbatches=4,"),
        (32, folded, "Set train.microbatches=4,"),
        (16, plain, "Set train.microbatches=8,"),
        (16, folded, "Lower train.global_batch_size to 16."),
    ):
        assert change in lines(job=job, used=None, needed=40 * GIB, largest=Largest(fit, ""))
