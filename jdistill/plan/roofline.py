"""A lower bound on a step's time, from the chips' published peaks. It is no forecast, and nothing here was measured."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from jdistill.plan.collectives import Collective
from jdistill.plan.topology import Topology

Bound = Literal["compute", "memory", "communication"]

_SERVER = 8
"""CUDA chips per server, connected by NVLink."""
_NETWORK = 50e9
"""Bytes/s per chip between servers: one 400 Gbit/s port each."""


class Roofline(NamedTuple):
    """Lower bounds for one step in seconds."""

    compute: float
    memory: float
    communication: float

    @property
    def seconds(self) -> float:
        """The largest of the three, as if they overlapped perfectly: no step can be faster."""
        return max(self)

    @property
    def bound(self) -> Bound:
        """The bottleneck, i.e. the largest of the three."""
        names: tuple[Bound, ...] = ("compute", "memory", "communication")
        return names[self.index(max(self))]


def roofline(
    topology: Topology, *, flops: float, traffic: float, collectives: Sequence[Collective], dtype: str
) -> Roofline:
    """Time of one step at the published peaks.

    Args:
      topology: the chips.
      flops: FLOPs per chip.
      traffic: bytes to and from HBM per chip.
      collectives: the step's collectives.
      dtype: the encoder's dtype, `bfloat16` or `float32`.
    """
    chip = topology.chip
    rate = chip.flops if dtype == "bfloat16" else chip.flops_float32
    return Roofline(flops / rate, traffic / chip.bandwidth, sum(seconds(c, topology) for c in collectives))


def seconds(collective: Collective, topology: Topology) -> float:
    """Time in which a chip can receive its part of a collective.

    Of a value gathered, scattered or exchanged among `k` chips, `(k - 1) / k` passes through each of them, and twice
    that for all-reduce, whatever the algorithm.
    Source: Chan et al. 2007, "Collective communication: theory, practice, and experience".
    """
    k = collective.group
    if k < 2:
        return 0.0
    # A permute sends the whole value on.
    share = 1.0 if collective.kind == "collective-permute" else (k - 1) / k
    passes = 2 if collective.kind == "all-reduce" else 1
    return passes * share * collective.bytes / link_rate(topology)


def link_rate(topology: Topology) -> float:
    """Bytes/s that the chip with the fewest links receives: one link along each axis, two where the axis wraps."""
    chip, shape = topology.chip, topology.shape
    if chip.platform == "cuda":
        return chip.link if topology.chips <= _SERVER else _NETWORK
    return chip.link * max(1, sum(2 if _wraps(chip.axes, shape, side) else 1 for side in shape if side > 1))


def _wraps(axes: int, shape: tuple[int, ...], side: int) -> bool:
    """Whether an axis wraps around: in 2-D slices with 16 chips along it, in 3-D slices made of 4x4x4 cubes."""
    return side == 16 if axes == 2 else all(other % 4 == 0 for other in shape)
