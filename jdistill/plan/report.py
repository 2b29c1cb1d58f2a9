"""Formats a plan as text or as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

from jdistill.plan.plan import Plan
from jdistill.plan.roofline import seconds
from jdistill.plan.rows import RowForm
from jdistill.plan.verdict import verdict


def as_values(plan: Plan, assumed: Sequence[str] = ()) -> dict[str, Any]:
    """A plan as plain values: seconds, bytes, FLOPs and rows, per chip unless the key says otherwise.

    Args:
      plan: result of `make_plan`.
      assumed: assumptions, one sentence each.
    """
    job, topology, step, roof = plan.job, plan.topology, plan.step, plan.roofline
    return {
        "name": job.name,
        "topology": topology.name,
        "chip": topology.chip.name,
        "chips": topology.chips,
        "peak_flops": topology.chip.flops,
        "compiled": step is not None,
        "global_batch_size": job.global_batch_size,
        "microbatches": job.microbatches,
        "fsdp": job.fsdp,
        "query_length": job.rows.query_length,
        "document_length": job.rows.document_length,
        "shared_rows": _shared_values(job.rows),
        "assumed": list(assumed),
        "fits": plan.fits,
        "memory": _memory_values(plan),
        "memory_needed": None if step is None else step.needed,
        "memory_available": topology.chip.memory,
        "flops": {
            "model_by_formula": plan.model_flops,
            "compiler_loop_bodies_once": None if step is None else step.flops,
        },
        "bytes": {
            "hbm_at_least": plan.traffic,
            "compiler_accessed_loop_bodies_once": None if step is None else step.bytes_accessed,
        },
        "collectives": None
        if step is None or step.memory is None
        else [{**c._asdict(), "seconds_at_least": seconds(c, topology)} for c in step.collectives],
        "roofline_estimate": {
            **roof._asdict(),
            "seconds": roof.seconds,
            "bound": roof.bound,
            "rows_per_second_all_chips": job.global_batch_size / roof.seconds,
        },
        "largest_batch": None if plan.largest is None else plan.largest._asdict(),
        "attention": None if step is None else step.attention,
        "notes": [] if step is None else list(step.notes),
        "verdict": verdict(plan),
        "seconds_to_plan": plan.seconds_to_plan,
    }


def format_plan(plan: Plan, assumed: Sequence[str] = ()) -> str:
    """Format a plan as text; arguments as of `as_values`."""
    step = plan.step
    chips = f"{plan.topology.chips} x {plan.topology.chip.name}"
    how = "not compiled" if step is None else "compiled ahead of time, nothing ran"
    lines = [f"{plan.job.name} on {plan.topology.name}: {chips}, {how} ({plan.seconds_to_plan:.0f} s)"]
    lines += _section("step", [_step(plan)])
    lines += _section("assumed", assumed)
    lines += _section("memory per chip", _memory(plan))
    lines += _section("work per chip", _work(plan))
    lines += _section("collectives of the compiled program", _collectives(plan))
    lines += _section("time of a step, a lower bound from published peaks; nothing was measured", _times(plan))
    if plan.largest is not None:
        rows = f"{plan.largest.rows:,} rows" if plan.largest.rows else "none"
        lines += _section("largest batch", [f"{rows}: {plan.largest.how}"])
    if step is not None and step.attention is not None:
        lines += [*_section("attention", [step.attention]), *_section("notes", step.notes)]
    return "\n".join(lines + _section("verdict", verdict(plan)))


def size(count: float) -> str:
    """Format a number of bytes."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}" if unit == "GiB" else f"{count / scale:,.1f} {unit}"
    return f"{count:.0f} B"


def _section(name: str, lines: Sequence[str]) -> list[str]:
    return [f"  {name}", *(f"    {line}" for line in lines)] if lines else []


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


def _memory_values(plan: Plan) -> dict[str, int] | None:
    """Memory as the compiler reports it, and what its arguments consist of; without a compiler, None."""
    if plan.step is None or plan.step.memory is None:
        return None
    memory, state = plan.step.memory, plan.state
    parts = {"parameters": state.parameters, "optimizer": state.optimizer, "batch": state.batch}
    return {**memory._asdict(), "total": memory.total, **parts}


def _memory(plan: Plan) -> list[str]:
    state, step, available = plan.state, plan.step, size(plan.topology.chip.memory)
    if step is not None and step.memory is None:
        return [f"needs {'more' if step.needed is None else size(step.needed)}, has {available} of HBM"]
    parts = {"parameters": state.parameters, "optimizer state": state.optimizer, "the batch": state.batch}
    if step is None or step.memory is None:
        total = f"together, of {available} of HBM; activations come on top"
        return _sizes({**parts, "gradients": state.trained, total: sum(state)})
    memory = step.memory
    return [
        *_sizes({"arguments, of which": memory.arguments}),
        *(f"  {line}" for line in _sizes(parts)),
        *_sizes(
            {
                "output": memory.output,
                "temporary: gradients, activations and all else": memory.temporary,
                "the program": memory.program,
                f"total, {memory.total / plan.topology.chip.memory:.0%} of {available} of HBM": memory.total,
                "in use at once by XLA's count, fast memory included": memory.peak,
            }
        ),
    ]


def _sizes(named: Mapping[str, float]) -> list[str]:
    return [f"{size(count):>10}  {name}" for name, count in named.items()]


def _work(plan: Plan) -> list[str]:
    lines = [f"{_tera(plan.model_flops)}  by formula (matrices and attention, no recomputation)"]
    if plan.step is not None and plan.step.flops is not None:
        lines.append(f"{_tera(plan.step.flops)}  by XLA's count, loop bodies counted once, without Pallas kernels")
    lines += _sizes({"to and from HBM, at the least": plan.traffic})
    if plan.step is not None and plan.step.bytes_accessed is not None:
        lines += _sizes({"accessed by XLA's count, fast memory included, likewise once": plan.step.bytes_accessed})
    return lines


def _collectives(plan: Plan) -> list[str]:
    if plan.step is None or plan.step.memory is None:
        return []
    return [
        f"{size(c.bytes):>10}  {c.kind} x {c.count} over {c.group} chips"
        + (f", {c.in_loops} of them in loops" if c.in_loops else "")
        + f"; {1e3 * seconds(c, plan.topology):.2f} ms at the links' peak"
        for c in plan.step.collectives
    ] or ["none"]


def _times(plan: Plan) -> list[str]:
    roof, rows = plan.roofline, plan.job.global_batch_size
    known = plan.step is not None and plan.step.memory is not None
    links = f"{1e3 * roof.communication:.2f} ms" if known else "unknown"
    share = plan.model_flops / roof.seconds / plan.topology.chip.flops
    return [
        f"compute {1e3 * roof.compute:.2f} ms, HBM {1e3 * roof.memory:.2f} ms, interconnect {links}",
        f"no faster than {1e3 * roof.seconds:.2f} ms: at most {rows / roof.seconds:,.0f} rows/s on all chips, "
        f"MFU {share:.0%}",
    ]


def _tera(flops: float) -> str:
    return f"{flops / 1e12:>7.3f} TF"
