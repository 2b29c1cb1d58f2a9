"""Compare every loss with values and gradients recorded from torch, which need not be here: for any jax and Python.

`python -m tests.losses.recorded` prints one line per loss x option x batch above its tolerance, and the largest
differences of all; `--write`, part of `make parity`, records them anew. Exit code 1 if a line is above its tolerance or
was never recorded.
"""

import argparse
import functools
import logging
import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import tests.conftest  # noqa: F401  (eight CPU devices and strict numerics, before JAX starts)
from tests import recording
from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import Difference, Result, difference, expected, ours
from tests.recording import projected

RECORDED = Path(__file__).with_name("recorded.npz")

REFERENCES = ("torch", "sentence-transformers")


class Line(NamedTuple):
    """One loss x option on one batch."""

    label: str
    batch: str
    gap: Difference | None
    """None where nothing was recorded."""

    @property
    def good(self) -> bool:
        """False for NaN too."""
        return self.gap is not None and all(x <= tolerance(self.batch) for x in self.gap)


def tolerance(batch: str) -> float:
    """Largest relative difference on a batch.

    In products with few directions, of which only the largest counts, the rounding of bfloat16 comes out up to half as
    large again as in whole vectors.
    """
    usual = INPUTS[batch].tolerance
    return usual if usual < 1e-3 else 1.5 * usual


def batches_of(label: str) -> list[str]:
    return [name for name, inputs in INPUTS.items() if fits(CASES[label], inputs)]


def reduced(result: Result) -> Result:
    """With gradients as a recording holds them."""
    return Result(result.value, [projected(x) for x in result.gradient])


@functools.cache
def _file() -> recording.Recording:
    return recording.read(RECORDED)


def is_recorded(label: str, name: str) -> bool:
    """Whether the file has this row; a new one has it after `--write`."""
    return f"{label} | {name}" in _file().arrays


@functools.cache
def recorded(label: str, name: str) -> Result:
    """What torch gave on this batch.

    Raises:
      KeyError: if it was never recorded.
    """
    value, *gradient = _file().arrays[f"{label} | {name}"]
    return Result(float(value), [x.astype("float64") for x in gradient])


def lines(label: str) -> list[Line]:
    """Every batch that a case fits."""
    _quiet()
    return [
        Line(label, name, difference(label, reduced(ours(label, name)), recorded(label, name), recorded))
        if is_recorded(label, name)
        else Line(label, name, None)
        for name in batches_of(label)
    ]


def references(label: str) -> dict[str, list]:
    """By the row's name, what torch gives."""
    _quiet()
    found = {name: reduced(expected(label, name)) for name in batches_of(label)}
    return {f"{label} | {name}": [result.value, *result.gradient] for name, result in found.items()}


def write(labels: list[str], path: Path) -> None:
    """Record every batch of these cases; torch is fast enough for one process."""
    rows = {name: arrays for label in labels for name, arrays in references(label).items()}
    recording.write(path, rows, {"recorded with": {name: version(name) for name in REFERENCES}}, {})


def _quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable()


def main() -> int:
    """Number of lines above tolerance, as an exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true", help="record torch's values and gradients")
    options.add_argument("--only", default="", help="losses whose label contains this")
    chosen = options.parse_args()
    if chosen.write:
        write(list(CASES), RECORDED)
        print(f"{RECORDED.name}: {RECORDED.stat().st_size / 2**20:.1f} MiB")
        return 0
    labels = [label for label in CASES if chosen.only in label]
    everything: list[Line] = []
    spawn = multiprocessing.get_context("spawn")  # JAX must not be forked
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), mp_context=spawn) as pool:
        for found in pool.map(lines, labels):
            everything += found
            for line in found:
                if not line.good:
                    print(f"{line.label:52}{line.batch:28}{line.gap or 'not recorded'}", flush=True)
    compared = [line for line in everything if line.gap]
    for half, of in ((False, "float32"), (True, "bfloat16")):
        gaps = [line.gap for line in compared if line.gap and (line.batch == "bfloat16") == half]
        value, gradient = (max((gap[i] for gap in gaps), default=0.0) for i in (0, 1))
        print(f"{of}: {len(gaps)} lines, value {value:.1e}, gradient {gradient:.1e} at most")
    good = sum(line.good for line in everything)
    print(f"jax {version('jax')}: {good} of {len(everything)} lines within tolerance")
    return int(good < len(everything) or not everything)


if __name__ == "__main__":
    sys.exit(main())
