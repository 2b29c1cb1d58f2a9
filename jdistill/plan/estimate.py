"""Roofline estimate of a step's time, its bottleneck, and the largest batch that fits."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from jdistill.plan.collectives import Collective, seconds
from jdistill.plan.topology import Topology

Bound = Literal["compute", "memory", "communication"]

MANY = 64
"""Maximum multiple of the planned batch to which memory is extrapolated."""


class Roofline(NamedTuple):
    """Lower bounds for one step in seconds, at the chip's published rates."""

    compute: float
    memory: float
    communication: float

    @property
    def seconds(self) -> float:
        """The largest of the three, with perfect overlap: no step can be faster."""
        return max(self)

    @property
    def bound(self) -> Bound:
        """The bottleneck, i.e. the largest of the three."""
        names: tuple[Bound, ...] = ("compute", "memory", "communication")
        return names[self.index(max(self))]


class Largest(NamedTuple):
    """The largest batch that fits."""

    rows: int
    """Rows of the global batch, divisible over devices and microbatches; 0 if none fits."""
    how: str
    """How it was determined."""


def roofline(
    topology: Topology, *, flops: float, traffic: float, collectives: Sequence[Collective], dtype: str
) -> Roofline:
    """Time of one step at the published rates.

    Args:
      topology: the chips.
      flops: FLOPs of matrix products per chip.
      traffic: bytes to and from HBM per chip.
      collectives: the step's collectives.
      dtype: the encoder's dtype, `bfloat16` or `float32`.
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
    """The largest batch that fits, extrapolated linearly from two batch sizes: `bytes = fixed + rows * slope`.

    Args:
      fits: rows -> bytes per chip; None if it does not fit. Slow if it compiles.
      rows: rows of the planned batch, a multiple of `unit`.
      unit: the batch must be a multiple of this.
      capacity: bytes per chip.
      first: bytes of the planned batch; None if it does not fit.
      needed: bytes it would need, if it does not fit and the compiler reported this.
      tried_by: how `fits` determines memory, for `Largest.how`.
    """
    known = {rows: first} if first is not None else {}
    tried, share = rows, 0.5 if first is not None or not needed else 0.7 * capacity / needed
    while len(known) < 2 and tried > unit:
        tried = max(unit, int(tried * min(share, 0.5)) // unit * unit)  # smaller each time, so this ends
        total = fits(tried)
        share = 0.5
        if total is not None:
            known[tried] = total
    if len(known) < 2:  # down to one row per device and microbatch
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
