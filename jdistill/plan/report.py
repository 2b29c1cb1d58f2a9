"""Formats a plan as text or as plain values. Estimates are labelled as such."""

from collections.abc import Sequence
from typing import Any

from jdistill.plan.collectives import seconds
from jdistill.plan.plan import Plan
from jdistill.plan.rows import RowForm


def format_plan(plan: Plan, assumed: Sequence[str] = ()) -> str:
    """Format a plan as text.

    Args:
      plan: result of `make_plan`.
      assumed: assumptions, one sentence each.
    """
    lines = [_title(plan), *_section("step", [_step(plan)]), *_section("assumed", assumed)]
    account = "as reported by the compiler" if plan.compiled else "an estimate"
    lines += _section(f"memory per chip, {account}", _memory(plan))
    lines += _section("work per chip", _work(plan))
    lines += _section(f"collectives, counted in {plan.counted_in.split(',')[0]}", _collectives(plan))
    lines += _section("time of a step (estimates)", _times(plan))
    if plan.largest is not None:
        rows = f"{plan.largest.rows:,} rows" if plan.largest.rows else "none"
        lines += _section("largest batch (estimate)", [f"{rows}, on {plan.largest.how}"])
    lines += _section("attention", [plan.attention])
    lines += _section("notes", list(plan.notes))
    lines += _section("verdict", plan.verdict)
    return "\n".join(lines)


def as_values(plan: Plan, assumed: Sequence[str] = ()) -> dict[str, Any]:
    """A plan as plain values: seconds, bytes, FLOPs and rows, per chip unless the key says otherwise."""
    job, topology, memory = plan.job, plan.topology, plan.memory
    return {
        "name": job.name,
        "topology": topology.name,
        "chip": topology.chip.name,
        "chips": topology.chips,
        "peak_flops": topology.chip.flops,
        "compiled": plan.compiled,
        "global_batch_size": job.global_batch_size,
        "microbatches": job.microbatches,
        "fsdp": job.fsdp,
        "query_length": job.rows.query_length,
        "document_length": job.rows.document_length,
        "shared_rows": _shared_values(job.rows),
        "assumed": list(assumed),
        "fits": plan.fits,
        "memory": None if memory is None else {**memory._asdict(), "total": memory.total},
        "memory_needed": plan.needed,
        "memory_available": topology.chip.memory,
        "flops": {
            "model_by_formula": plan.model_flops,
            "traced_program": plan.program_flops,
            "compiler_loop_bodies_once": plan.compiler_flops,
        },
        "bytes": {"hbm_traffic": plan.traffic, "compiler_accessed_loop_bodies_once": plan.compiler_bytes},
        "counted_in": plan.counted_in,
        "collectives": [
            {**collective._asdict(), "seconds_estimate": seconds(collective, topology)}
            for collective in plan.collectives
        ],
        "roofline_estimate": {
            **plan.roofline._asdict(),
            "seconds": plan.roofline.seconds,
            "bound": plan.roofline.bound,
            "rows_per_second_all_chips": job.global_batch_size / plan.roofline.seconds,
        },
        "cycles_estimate": None
        if plan.cycles is None or plan.cycle_seconds is None
        else {
            **plan.cycles._asdict(),
            "seconds_with_collectives": plan.cycle_seconds,
            "rows_per_second_all_chips": job.global_batch_size / plan.cycle_seconds,
        },
        "largest_batch": None if plan.largest is None else plan.largest._asdict(),
        "attention": plan.attention,
        "notes": list(plan.notes),
        "verdict": list(plan.verdict),
        "seconds_to_plan": plan.seconds_to_plan,
    }


def _title(plan: Plan) -> str:
    chips = f"{plan.topology.chips} x {plan.topology.chip.name}"
    how = "compiled ahead of time, nothing ran" if plan.compiled else "not compiled, estimated from the traced step"
    return f"{plan.job.name} on {plan.topology.name}: {chips}, {how} ({plan.seconds_to_plan:.0f} s)"


def _step(plan: Plan) -> str:
    job, form = plan.job, plan.job.rows
    per_chip = job.global_batch_size // plan.topology.chips
    texts = f"documents of {form.document_length} tokens"
    if form.query_length:
        texts = f"queries of {form.query_length} and {texts}"
    if form.shared is not None:
        texts = _shared(form, per_chip // job.microbatches)
    count = form.documents - 1
    negatives = f", {count} hard negative{'s' if count > 1 else ''} each" if count else ""
    pieces = f" in {job.microbatches} microbatches" if job.microbatches > 1 else ""
    split = f", state sharded over {job.fsdp} chips" if job.fsdp > 1 else ""
    return (
        f"{job.global_batch_size:,} rows, {per_chip:,} per chip{pieces}; {texts}{negatives}; "
        f"{job.student.config.dtype}{split}; {' + '.join(job.terms)}"
    )


def _shared(form: RowForm, piece: int) -> str:
    """Shared encoder rows of one microbatch on a chip."""
    names = ("queries", "documents")[-len(form.sides) :]
    rows = [
        f"{name} in {shared.of_piece(piece):,} rows of {shared.length} tokens"
        for name, (_, shared) in zip(names, form.sides, strict=True)
    ]
    return f"shared rows, per {piece:,} rows: {' and '.join(rows)}"


def _shared_values(form: RowForm) -> dict[str, Any] | None:
    """Length of shared encoder rows, and their number per batch row."""
    if form.shared is None:
        return None
    names = ("query", "document")[-len(form.sides) :]
    return {
        name: {"length": rows.length, "per_row": rows.per_row}
        for name, (_, rows) in zip(names, form.sides, strict=True)
    }


def _memory(plan: Plan) -> list[str]:
    memory, available = plan.memory, plan.topology.chip.memory
    if memory is None:
        needs = "more" if plan.needed is None else size(plan.needed)
        return [f"needs {needs}, has {size(available)} of HBM"]
    lines = [
        f"{size(memory.parameters):>10}  parameters",
        f"{size(memory.optimizer):>10}  optimizer state",
        f"{size(memory.batch):>10}  batch, and tile padding",
        f"{size(memory.temporary):>10}  activations, gradients and other temporary memory",
        f"{size(memory.program):>10}  the program",
        f"{size(memory.total):>10}  total, {memory.total / available:.0%} of {size(available)} of HBM",
    ]
    return [line for line in lines if plan.compiled or "the program" not in line]


def _work(plan: Plan) -> list[str]:
    lines = [
        f"{_tera(plan.model_flops)} by formula (model FLOPs: matrices and attention, no recomputation)",
        f"{_tera(plan.program_flops)} of matrix products in the traced step, with loss and recomputation",
    ]
    if plan.compiler_flops is not None:
        lines.append(f"{_tera(plan.compiler_flops)} by the compiler's count, loop bodies counted once")
    lines.append(f"{size(plan.traffic):>10}  to and from HBM, counted in {plan.counted_in}")
    if plan.compiler_bytes is not None:
        once = "including fast memory, loop bodies counted once"
        lines.append(f"{size(plan.compiler_bytes):>10}  accessed by the compiler's count, {once}")
    return lines


def _collectives(plan: Plan) -> list[str]:
    if not plan.collectives:
        return ["none"]
    return [
        f"{size(c.bytes):>10}  {c.kind} x {c.count} over {c.group} chips"
        + (f", {c.in_loops} of them in loops" if c.in_loops else "")
        + f"; {1e3 * seconds(c, plan.topology):.2f} ms at the links' rate"
        for c in plan.collectives
    ]


def _times(plan: Plan) -> list[str]:
    roof = plan.roofline
    lines = [
        f"roofline, published peak rates: compute {1e3 * roof.compute:.2f} ms, HBM {1e3 * roof.memory:.2f} ms, links "
        f"{1e3 * roof.communication:.2f} ms",
        f"  no faster than {_rate(plan, roof.seconds)}",
    ]
    if plan.cycles is not None and plan.cycle_seconds is not None:
        clock = (plan.topology.chip.clock or 0) / 1e9
        known = plan.cycles.cycles / clock / 1e6
        lines += [
            f"compiler's cycles: {plan.cycles.cycles / 1e6:,.1f} million at {clock:.2f} GHz = {known:.2f} ms, plus "
            "links without overlap",
            f"  ops without a cycle estimate, e.g. Pallas kernels: {1e3 * plan.cycles.seconds - known:.2f} ms at peak "
            f"rates, {plan.cycles.without:.0%} of the chip's time",
            f"  total {_rate(plan, plan.cycle_seconds)}",
        ]
    return lines


def _rate(plan: Plan, spent: float) -> str:
    """Time, rows per second on all chips, and model FLOPs utilization (MFU)."""
    share = plan.model_flops / spent / plan.topology.chip.flops
    return f"{1e3 * spent:.2f} ms = {plan.job.global_batch_size / spent:,.0f} rows/s on all chips, MFU {share:.0%}"


def _section(name: str, lines: Sequence[str]) -> list[str]:
    return [f"  {name}", *(f"    {line}" for line in lines)] if lines else []


def _tera(flops: float) -> str:
    return f"{flops / 1e12:>7.3f} TF"


def size(count: float) -> str:
    """Format a number of bytes."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}" if unit == "GiB" else f"{count / scale:,.1f} {unit}"
    return f"{count:.0f} B"
