"""What a plan comes to, in sentences: whether it fits, what bounds it, and what to change."""

from math import ceil

from jdistill.plan.estimate import Largest, Roofline
from jdistill.plan.job import Job
from jdistill.plan.topology import Topology

TIGHT = 0.92
"""Share of a chip's memory from which on a plan is called tight: evaluation and transfers need some too."""
FEW_TOKENS = 2048
"""Tokens per chip and piece below which a chip's matrix units are hardly filled."""


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
      job: what is planned.
      topology: where.
      used: bytes on one chip; None where it does not fit.
      needed: bytes that it would need, where it does not fit and that is known.
      state: bytes of parameters and optimizer state on one chip.
      estimate: time of one step at published rates.
      largest: the largest batch that fits, where it was looked for.
      compiled: whether the memory is the compiler's; a trace overestimates it.
    """
    capacity, rows = topology.chip.memory, job.global_batch_size
    lines: list[str] = []
    if used is None or used > capacity:
        want = f" (needs {(used or needed or 0) / 2**30:.1f} GiB)" if used or needed else ""
        fails = "does not fit" if compiled else "may not fit, by an estimate that fuses nothing"
        lines.append(f"{fails}: {capacity / 2**30:.1f} GiB per chip{want}. {_smaller(job, topology, largest)}")
    else:
        tight = " It is tight; leave room for evaluation." if used > TIGHT * capacity else ""
        lines.append(f"fits: {used / 2**30:.1f} of {capacity / 2**30:.1f} GiB per chip.{tight}")
    if state > 0.4 * capacity and topology.chips > 1:
        lines.append(
            f"parameters and optimizer state take {state / capacity:.0%} of a chip; train.fsdp splits them, for "
            "example train.fsdp=4."
        )
    lines.append(_bound(job, topology, estimate, largest))
    pieces = rows // topology.chips // job.microbatches * job.rows.tokens
    if pieces < FEW_TOKENS and job.student.layers:
        change = "fewer train.microbatches, " if job.microbatches > 1 else ""
        lines.append(
            f"each chip encodes only {pieces:,.0f} tokens at a time, too few to keep it busy; {change}a larger "
            "train.global_batch_size or fewer chips use them better."
        )
    return lines


def _smaller(job: Job, topology: Topology, largest: Largest | None) -> str:
    rows = job.global_batch_size
    if largest is None or largest.rows == 0:
        if topology.chips > 1:
            return "Raise train.microbatches and train.fsdp, or take chips with more memory."
        return "Raise train.microbatches, or take chips with more memory."
    times = ceil(rows / largest.rows)
    pieces, unit = job.microbatches * times, topology.chips * job.rows.multiple
    while pieces < rows and rows % (pieces * unit):
        pieces += 1
    if rows % (pieces * unit):
        return f"Lower train.global_batch_size to {largest.rows:,}."
    return f"Set train.microbatches={pieces}, or lower train.global_batch_size to {largest.rows:,}."


def _bound(job: Job, topology: Topology, estimate: Roofline, largest: Largest | None) -> str:
    if estimate.bound == "compute":
        return "compute-bound at published rates: only more chips, a smaller student or shorter texts make it faster."
    if estimate.bound == "communication":
        room = "" if largest is None or largest.rows <= job.global_batch_size else f" (up to {largest.rows:,} rows fit)"
        fsdp = " or a smaller train.fsdp" if job.fsdp > 1 else ""
        return (
            f"communication-bound: the same bytes travel whatever the batch, so a larger "
            f"train.global_batch_size{room}, fewer chips{fsdp} use the chips better."
        )
    change = "student.dtype=bfloat16 halves most of it" if job.student.config.dtype == "float32" else _traffic(topology)
    return f"memory-bound: HBM is the limit, not arithmetic; {change}."


def _traffic(topology: Topology) -> str:
    if topology.chip.platform == "tpu":
        return "lengths that are multiples of 128 waste no lanes, and wider students use the matrix units better"
    return "a wider student, or attention that keeps its scores on the chip, uses the arithmetic better"
