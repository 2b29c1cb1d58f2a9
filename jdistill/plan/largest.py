"""The largest batch that fits into a chip's memory, estimated from one compiled step or searched by compiling more."""

from collections.abc import Callable
from typing import NamedTuple

MANY = 64
"""Maximum multiple of the planned batch to which memory is extrapolated."""
TRIES = 4
"""Maximum number of further batch sizes that a search compiles."""


class Largest(NamedTuple):
    """The largest batch that fits."""

    rows: int
    """Rows of the global batch, divisible over devices and microbatches; 0 if none fits."""
    how: str
    """How it was determined."""


def estimate_largest(rows: int, used: int, *, fixed: int, capacity: int, unit: int) -> Largest:
    """Estimate the largest batch, taking all memory except `fixed` as proportional to the rows.

    More than `fixed` is in truth independent of the batch, so upwards of `rows` the estimate is on the safe side, and
    downwards it may be slightly too large.

    Args:
      rows: rows of a batch whose memory is known.
      used: bytes per chip with that batch.
      fixed: bytes that every batch needs: parameters, optimizer state, gradients.
      capacity: bytes per chip.
      unit: the batch must be a multiple of this.
    """
    per_row = max(used - fixed, 1) / rows
    found, most = max(0, int((capacity - fixed) / per_row)), MANY * rows
    how = f"{per_row / 1024:,.1f} KiB per row and chip at {rows:,} rows, taken as proportional"
    if found >= most:
        return Largest(most // unit * unit, f"{how}; there is room for more")
    return Largest(found // unit * unit, how)


def search_largest(
    compiled: Callable[[int], int | None], rows: int, used: int | None, first: int, *, capacity: int, unit: int
) -> Largest:
    """Search the largest batch by compiling steps of other sizes: each on the line through the two largest that fit.

    Args:
      compiled: rows -> bytes per chip; None if it does not fit. Slow.
      rows: rows of the planned batch.
      used: its bytes per chip; None if it does not fit.
      first: the batch size to try first.
      capacity: bytes per chip.
      unit: the batch must be a multiple of this.
    """
    fits, refused = ({rows: used}, []) if used is not None else ({}, [rows])
    tried = max(first, unit)
    for _ in range(TRIES):
        if tried in fits or tried in refused:
            break
        total = compiled(tried)
        if total is None or total > capacity:
            refused.append(tried)
        else:
            fits[tried] = total
        best = max(fits, default=0)
        if len(fits) > 1:
            smaller, best = sorted(fits)[-2:]
            slope = max(fits[best] - fits[smaller], 1) / (best - smaller)
            tried = best + int((capacity - fits[best]) / slope)
        else:
            tried = (best + min(refused)) // 2 if refused else 2 * best
        # The line leads beyond a size that does not fit: halve the distance instead.
        if refused and tried >= min(refused):
            tried = (best + min(refused)) // 2
        tried = max(min(tried, MANY * rows) // unit * unit, unit)
    best = max(fits, default=0)
    return Largest(
        best, f"compiled, as {len(fits) + len(refused)} batch sizes were" if best else "no size compiled fits"
    )
