"""What a plan advises, from plans whose figures are made up."""

import jax
import pytest

from jdistill.plan.collectives import Collective
from jdistill.plan.compiled import CompiledStep, Memory
from jdistill.plan.largest import Largest
from jdistill.plan.plan import Plan, State
from jdistill.plan.roofline import roofline
from jdistill.plan.topology import parse_topology
from jdistill.plan.verdict import verdict
from tests.plan.tiny_job import tiny_job

GIB = 2**30
V5E = parse_topology("v5e:4x4")
STATE = State(parameters=GIB // 3, optimizer=2 * GIB // 3, trained=GIB // 3, batch=2**20)


def bound(*, flops=1.0, traffic=1.0, collectives=()):
    return roofline(V5E, flops=flops, traffic=traffic, collectives=collectives, dtype="bfloat16")


def uses(gib: float) -> CompiledStep:
    return CompiledStep(Memory(GIB, 0, int(gib * GIB) - GIB, 0, 0))


FITS = uses(4)
REFUSED = CompiledStep(needed=40 * GIB)


def lines(step: CompiledStep | None = FITS, job=None, **changes) -> str:
    """A verdict on a step that fits, unless changed."""
    plan = Plan(
        job=job or tiny_job(global_batch_size=65536),
        topology=V5E,
        seconds_to_plan=1.0,
        state=STATE,
        step=step,
        model_flops=1e12,
        traffic=10**9,
        roofline=bound(flops=1e12),
        largest=None,
    )
    return "\n".join(verdict(plan._replace(**changes)))


def test_whether_it_fits_and_what_to_change():
    assert lines().startswith("fits: 4.0 of 15.8 GiB per chip.\ncompute-bound at published peaks")
    assert "tight" in lines(uses(15.5))
    assert "train.fsdp" in lines(state=STATE._replace(optimizer=8 * GIB))
    refused = lines(REFUSED, largest=Largest(24_000, "a line"))
    assert "does not fit: 15.8 GiB per chip (needs 40.0 GiB). Set train.microbatches=4" in refused
    assert "Raise train.microbatches and train.fsdp" in lines(REFUSED, largest=Largest(0, ""))
    assert "does not fit: 15.8 GiB per chip (needs 20.0 GiB)" in lines(uses(20))
    assert "encodes only 192 tokens at a time" in lines(job=tiny_job(global_batch_size=64))


def test_what_is_not_compiled_is_not_reported_to_fit():
    assert lines(None).startswith("not compiled: whether it fits into 15.8 GiB is unknown; 1.3 GiB are taken before")
    huge = STATE._replace(optimizer=20 * GIB)
    assert lines(None, state=huge).startswith("does not fit: 15.8 GiB per chip (needs 20.7 GiB). Raise train.micro")


def test_what_bounds_it():
    assert "memory-bound: HBM" in lines(roofline=bound(traffic=1e9))
    far = [Collective("all-reduce", 16, 1, 10**9, 0)]
    assert "communication-bound" in lines(roofline=bound(collectives=far))
    accessed = uses(4)._replace(bytes_accessed=1e12)
    assert "compute-bound if the fast memory keeps most" in lines(accessed)


@pytest.mark.parametrize(
    ("fit", "folded", "change"),
    [
        (32, False, "Set train.microbatches=4,"),
        (32, True, "Set train.microbatches=4,"),
        (16, False, "Set train.microbatches=8,"),
        (16, True, "Lower train.global_batch_size to 16."),
    ],
)
def test_a_folded_step_is_cut_into_pieces_that_fold(fit, folded, change):
    """128 rows on 16 chips: in 8 pieces each has one row, which is no pair."""
    job = tiny_job(global_batch_size=128)
    if folded:
        job = job._replace(rows=job.rows.folded(32, 64))
    assert change in lines(REFUSED, job, largest=Largest(fit, ""))


def test_state_is_that_of_shapes_and_shardings():
    from jdistill.parallel import make_mesh
    from jdistill.plan.plan import least_traffic, state_bytes

    job = tiny_job()
    parameters = sum(x.size * 4 for x in jax.tree.leaves(job.params))
    whole, split = (state_bytes(job, make_mesh(jax.devices(), fsdp=fsdp)) for fsdp in (1, 8))
    assert whole.parameters == whole.trained == parameters
    assert whole.optimizer == 2 * parameters + 4, "AdamW's two means and its count"
    assert split.parameters < 0.2 * parameters
    assert least_traffic(whole, temporary=10**6) == 2 * (3 * parameters + 4 + 10**6) + whole.batch
