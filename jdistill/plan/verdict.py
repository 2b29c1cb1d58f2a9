"""Summary of a plan in sentences: whether it fits, what bounds its time, and what to change."""

from math import ceil

from jdistill.plan.chips import GIB
from jdistill.plan.plan import Plan

TIGHT = 0.92
"""Fraction of memory above which a plan is called tight, as evaluation and transfers need some, too."""
FEW_TOKENS = 2048
"""Tokens per chip and microbatch below which the matrix units are underused."""


def verdict(plan: Plan) -> list[str]:
    """Sentences, the most important first."""
    job, topology = plan.job, plan.topology
    capacity, state = topology.chip.memory, plan.state.parameters + plan.state.optimizer
    lines = [_fit(plan)]
    if state > 0.4 * capacity and topology.chips > 1:
        lines.append(
            f"parameters and optimizer state take {state / capacity:.0%} of a chip's memory; shard them, for example "
            "with train.fsdp=4."
        )
    lines.append(_bound(plan))
    tokens = job.global_batch_size // topology.chips // job.microbatches * job.rows.tokens
    if tokens < FEW_TOKENS and job.student.layers:
        change = "fewer train.microbatches, " if job.microbatches > 1 else ""
        lines.append(
            f"each chip encodes only {tokens:,.0f} tokens at a time, too few to keep it busy; use {change}a larger "
            "train.global_batch_size or fewer chips."
        )
    return lines


def _fit(plan: Plan) -> str:
    capacity, used = plan.topology.chip.memory, plan.used
    if plan.fits is None:
        return (
            f"not compiled: whether it fits into {capacity / GIB:.1f} GiB is unknown; {sum(plan.state) / GIB:.1f} GiB "
            "are taken before any activation."
        )
    if plan.fits:
        tight = " It is tight; leave room for evaluation." if used and used > TIGHT * capacity else ""
        return f"fits: {(used or 0) / GIB:.1f} of {capacity / GIB:.1f} GiB per chip.{tight}"
    want = used or (sum(plan.state) if plan.step is None else 0)
    needs = f" (needs {want / GIB:.1f} GiB)" if want else ""
    return f"does not fit: {capacity / GIB:.1f} GiB per chip{needs}. {_smaller(plan)}"


def _smaller(plan: Plan) -> str:
    """What makes the step fit: as many microbatches as leave each at most the rows that fit, or fewer rows."""
    job, rows, largest = plan.job, plan.job.global_batch_size, plan.largest
    if largest is None or largest.rows == 0:
        shard = " and train.fsdp" if plan.topology.chips > 1 else ""
        return f"Raise train.microbatches{shard}, or use chips with more memory."
    pieces, unit = job.microbatches * ceil(rows / largest.rows), plan.topology.chips * job.rows.multiple
    # Microbatches must divide the batch on every chip.
    while pieces < rows and rows % (pieces * unit):
        pieces += 1
    if rows % (pieces * unit):
        return f"Lower train.global_batch_size to {largest.rows:,}."
    return f"Set train.microbatches={pieces}, or lower train.global_batch_size to {largest.rows:,}."


def _bound(plan: Plan) -> str:
    job, roof, largest = plan.job, plan.roofline, plan.largest
    if roof.bound == "communication":
        room = "" if largest is None or largest.rows <= job.global_batch_size else f" (up to {largest.rows:,} rows fit)"
        fsdp = " or a smaller train.fsdp" if job.fsdp > 1 else ""
        return (
            "communication-bound: most of the bytes sent do not depend on the batch, so use a larger "
            f"train.global_batch_size{room}, fewer chips{fsdp}."
        )
    accessed = 0.0 if plan.step is None else plan.step.bytes_accessed or 0.0
    if roof.bound == "compute" and accessed / plan.topology.chip.bandwidth > roof.compute:
        return (
            "compute-bound if the fast memory keeps most of what XLA counts as accessed, memory-bound if not: use more "
            "chips, a smaller student or shorter texts."
        )
    if roof.bound == "compute":
        return "compute-bound at published peaks: use more chips, a smaller student or shorter texts."
    change = "student.dtype=bfloat16 halves most of it" if job.student.config.dtype == "float32" else _traffic(plan)
    return f"memory-bound: HBM bandwidth is the bottleneck, not arithmetic; {change}."


def _traffic(plan: Plan) -> str:
    if plan.topology.chip.platform == "tpu":
        return "lengths that are multiples of 128 waste no lanes, and wider students use the matrix units better"
    return "a larger train.global_batch_size shares the optimizer's traffic among more rows"
