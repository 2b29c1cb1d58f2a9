"""Parses topologies such as `v5e:16x16`, and makes devices of absent TPU slices for ahead-of-time compilation.

The TPU compiler, the library `libtpu`, compiles for any slice on any x86-64 Linux machine. It is loaded only here, such
that a TPU of this machine stays available to other processes.
"""

import importlib.util
import os
import re
from math import prod
from typing import NamedTuple

import jax
from jax.experimental import topologies

from jdistill.backend import ALONE, set_flags
from jdistill.config import UserError
from jdistill.plan.chips import CHIPS, Chip

EXAMPLES = "v5e:4x4, v5e:16x16, v5p:4x4x4, v6e:8x8, h100:8 or h200:8"


class Topology(NamedTuple):
    """Chips of one kind, in one slice."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    """Chips along each axis of the slice; one number for CUDA."""

    @property
    def chips(self) -> int:
        """Number of chips."""
        return prod(self.shape)


def parse_topology(name: str) -> Topology:
    """A topology as users write it: `CHIP:AxB`, `CHIP:AxBxC`, or `CHIP:N` for CUDA.

    Raises:
      UserError: if the chip is unknown, or the shape has the wrong number of axes.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name.strip())
    if match is None:
        raise UserError(f"--topology {name}: expected CHIP:SHAPE, such as {EXAMPLES}.")
    kind, shape = match[1].lower(), tuple(int(side) for side in match[2].split("x"))
    if kind not in CHIPS:
        raise UserError(f"--topology {name}: unknown chip '{kind}'. Known: {', '.join(CHIPS)}.")
    chip = CHIPS[kind]
    if len(shape) != chip.axes or 0 in shape:
        sides = "x".join("ABC"[: chip.axes]) if chip.axes > 1 else "N"
        raise UserError(f"--topology {name}: expected {kind}:{sides}, such as {chip.example}.")
    return Topology(f"{kind}:{match[2]}", chip, shape)


def topology_devices(name: str) -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]
    """Devices of a TPU slice that need not exist: programs can be compiled for them, but not run.

    Must be called before anything else loads libtpu. Also works in a process that uses a TPU.

    Args:
      name: such as `v5e:2x2` or `v5p:4x4x4`.

    Raises:
      UserError: if libtpu is not installed, or the slice does not exist.
    """
    topology = parse_topology(name)
    if topology.chip.platform != "tpu":
        raise UserError(f"--topology {name}: ahead-of-time compilation supports TPU slices only.")
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError(
            f"--topology {name}: the TPU compiler is missing. Run `pip install 'jdistill[aot]'` (Linux, x86-64); "
            "h100:N and h200:N need none, and say less."
        )
    for key, value in ALONE.items():
        os.environ.setdefault(key, value)
    set_flags("tpu")  # the same flags as in training
    try:
        slice_ = topologies.get_topology_desc(platform="tpu", topology_name=topology.name)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2] or str(error)
        raise UserError(f"--topology {name}: the TPU compiler knows no such slice ({reason.rstrip('.')}).") from error
    return list(slice_.devices)
