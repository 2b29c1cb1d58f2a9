"""From work to time: what the published rates of a chip allow, what bounds the step, and how large a batch fits."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from jdistill.plan.collectives import Collective, seconds
from jdistill.plan.topology import Topology

Bound = Literal["compute", "memory", "communication"]

MANY = 64
"""So many times the planned batch is as far as a straight line through two batches is trusted."""


class Roofline(NamedTuple):
    """Least seconds for one step, each part at the chip's published rate."""

    compute: float
    memory: float
    communication: float

    @property
    def seconds(self) -> float:
        """If everything went on at once: the longest of the three. No step can be faster."""
        return max(self)

    @property
    def bound(self) -> Bound:
        """Which of the three that is."""
        names: tuple[Bound, ...] = ("compute", "memory", "communication")
        return names[self.index(max(self))]


class Largest(NamedTuple):
    """The largest batch that fits."""

    rows: int
    """Rows of the whole batch, a multiple of what devices and microbatches ask for; 0 if none fits."""
    how: str
    """How it was found."""


def roofline(
    topology: Topology, *, flops: float, traffic: float, collectives: Sequence[Collective], dtype: str
) -> Roofline:
    """Time of one step by the published rates.

    Args:
      topology: the chips.
      flops: matrix products of one chip.
      traffic: bytes to and from HBM of one chip.
      collectives: what the chips send each other.
      dtype: in which the encoder computes, `bfloat16` or `float32`.
    """
    chip = topology.chip
    rate = chip.flops if dtype == "bfloat16" else chip.flops_float32
    return Roofline(flops / rate, traffic / chip.bandwidth, sum(seconds(c, topology) for c in collectives))


def largest_batch(
    fits: Callable[[int], int | None],
    rows: int,
    *,
    unit: int,
    capacity: int,
    first: int | None,
    needed: int | None,
    tried_by: str,
) -> Largest:
    """The largest batch that fits, on a straight line through two sizes of batch.

    Activations grow with the rows, everything else stays: `bytes = fixed + rows * slope`.

    Args:
      fits: rows -> bytes on one chip, None where the compiler refused; slow where it compiles.
      rows: of the planned batch, a multiple of `unit`.
      unit: rows that a batch must be a multiple of.
      capacity: bytes that a chip has.
      first: bytes of the planned batch, None where it does not fit.
      needed: bytes that it would have needed, where it does not fit and the compiler said so.
      tried_by: what `fits` does, a participle for the answer.
    """
    known = {rows: first} if first is not None else {}
    tried, share = rows, 0.5 if first is not None or not needed else 0.7 * capacity / needed
    while len(known) < 2 and tried > unit:
        tried = max(unit, int(tried * min(share, 0.5)) // unit * unit)  # smaller each time, so this ends
        total = fits(tried)
        share = 0.5
        if total is not None:
            known[tried] = total
    if len(known) < 2:  # one row for each device and piece is all there is
        return Largest(max(known, default=0), f"no batch below {unit:,} rows divides over devices and microbatches")
    (small, low), (large, high) = sorted(known.items())
    slope = (high - low) / (large - small)
    how = f"a line through {small:,} and {large:,} rows, {tried_by}: {slope / 1024:,.1f} KiB per row"
    most = (MANY * rows) // unit * unit
    if slope <= 0:
        return Largest(most, f"memory does not grow from {small:,} to {large:,} rows")
    largest = int(large + (capacity - high) / slope) // unit * unit
    if largest >= most:
        return Largest(most, f"{how}; there is room for more")
    return Largest(max(largest, 0), how)
