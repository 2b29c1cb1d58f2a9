"""Summary of a plan in sentences: whether it fits, its bottleneck, and what to change."""

from math import ceil

from jdistill.plan.estimate import Largest, Roofline
from jdistill.plan.job import Job
from jdistill.plan.topology import Topology

TIGHT = 0.92
"""Fraction of memory above which a plan is called tight, as evaluation and transfers need some, too."""
FEW_TOKENS = 2048
"""Tokens per chip and microbatch below which the matrix units are underused."""


def verdict(
    job: Job,
    topology: Topology,
    *,
    used: int | None,
    needed: int | None,
    state: int,
    estimate: Roofline,
    largest: Largest | None,
    compiled: bool = True,
) -> list[str]:
    """Sentences, the most important first.

    Args:
      job: the planned step.
      topology: the chips.
      used: bytes per chip; None if it does not fit.
      needed: bytes per chip it would need, if it does not fit and this is known.
      state: bytes of parameters and optimizer state per chip.
      estimate: time of one step at published rates.
      largest: the largest batch that fits, if known.
      compiled: whether memory is reported by the compiler; estimates from a trace are too high.
    """
    capacity, rows = topology.chip.memory, job.global_batch_size
    lines: list[str] = []
    if used is None or used > capacity:
        want = f" (needs {(used or needed or 0) / 2**30:.1f} GiB)" if used or needed else ""
        fails = "does not fit" if compiled else "may not fit, by an estimate without fusion"
        lines.append(f"{fails}: {capacity / 2**30:.1f} GiB per chip{want}. {_smaller(job, topology, largest)}")
    else:
        tight = " It is tight; leave room for evaluation." if used > TIGHT * capacity else ""
        lines.append(f"fits: {used / 2**30:.1f} of {capacity / 2**30:.1f} GiB per chip.{tight}")
    if state > 0.4 * capacity and topology.chips > 1:
        lines.append(
            f"parameters and optimizer state take {state / capacity:.0%} of a chip's memory; shard them, for example "
            "with train.fsdp=4."
        )
    lines.append(_bound(job, topology, estimate, largest))
    pieces = rows // topology.chips // job.microbatches * job.rows.tokens
    if pieces < FEW_TOKENS and job.student.layers:
        change = "fewer train.microbatches, " if job.microbatches > 1 else ""
        lines.append(
            f"each chip encodes only {pieces:,.0f} tokens at a time, too few to keep it busy; use {change}a larger "
            "train.global_batch_size or fewer chips."
        )
    return lines


def _smaller(job: Job, topology: Topology, largest: Largest | None) -> str:
    rows = job.global_batch_size
    if largest is None or largest.rows == 0:
        if topology.chips > 1:
            return "Raise train.microbatches and train.fsdp, or use chips with more memory."
        return "Raise train.microbatches, or use chips with more memory."
    times = ceil(rows / largest.rows)
    pieces, unit = job.microbatches * times, topology.chips * job.rows.multiple
    while pieces < rows and rows % (pieces * unit):
        pieces += 1
    if rows % (pieces * unit):
        return f"Lower train.global_batch_size to {largest.rows:,}."
    return f"Set train.microbatches={pieces}, or lower train.global_batch_size to {largest.rows:,}."


def _bound(job: Job, topology: Topology, estimate: Roofline, largest: Largest | None) -> str:
    if estimate.bound == "compute":
        return "compute-bound at published rates: use more chips, a smaller student or shorter texts."
    if estimate.bound == "communication":
        room = "" if largest is None or largest.rows <= job.global_batch_size else f" (up to {largest.rows:,} rows fit)"
        fsdp = " or a smaller train.fsdp" if job.fsdp > 1 else ""
        return (
            f"communication-bound: the bytes sent do not depend on the batch, so use a larger "
            f"train.global_batch_size{room}, fewer chips{fsdp}."
        )
    change = "student.dtype=bfloat16 halves most of it" if job.student.config.dtype == "float32" else _traffic(topology)
    return f"memory-bound: HBM bandwidth is the bottleneck, not arithmetic; {change}."


def _traffic(topology: Topology) -> str:
    if topology.chip.platform == "tpu":
        return "lengths that are multiples of 128 waste no lanes, and wider students use the matrix units better"
    return "a wider student, or attention that keeps its scores on the chip, uses the arithmetic better"
