"""Compare every encoder with hidden states and gradients recorded from transformers: for any jax and Python.

`python -m tests.student.recorded` prints one line per encoder x option x padding side. `--write`, part of
`make parity`, records configurations, weights, hidden states and gradients anew. Exit code 1 if a line is above its
tolerance. The recorded weights are used where there is no torch.
"""

import argparse
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

import tests.conftest  # noqa: F401  (strict numerics, before JAX starts)
from tests import recording
from tests.recording import projected
from tests.student.encoders.cases import CASES
from tests.student.encoders.measure import (
    GRID,
    RECORDED,
    SIDES,
    Difference,
    Result,
    Side,
    config_json,
    difference,
    expected,
    ours,
    recorded,
    tensors_of,
)


def reduced(result: Result) -> list[np.ndarray]:
    """Hidden states, and gradients in the order of their names, as a recording holds them."""
    return [projected(result.hidden), *(projected(result.gradient[name]) for name in sorted(result.gradient))]


def compared(label: str, side: Side) -> Difference:
    """The student, and what transformers gave.

    Raises:
      KeyError: if it was never recorded.
    """
    found, theirs = ours(label, side), recorded().arrays[f"{label} | {side}"]
    names = recorded().notes["names"][label]
    mine = Result(projected(found.hidden), {name: projected(x) for name, x in found.gradient.items()})
    return difference(mine, Result(theirs[0], dict(zip(names, theirs[1:], strict=True))))


def write(path: Path) -> None:
    """Record every encoder."""
    rows, weights, names = {}, {}, {}
    for label in CASES:
        for name, x in tensors_of(label).items():
            whole = np.round(np.asarray(x) * GRID).astype(np.int16)
            assert (whole.astype(np.float32) / GRID == x).all(), f"{label}: {name} is no multiple of 1 / {GRID}"
            weights[f"{label}\n{name}"] = whole
        for side in SIDES:
            found = expected(label, side)
            rows[f"{label} | {side}"], names[label] = reduced(found), sorted(found.gradient)
    notes = {
        "recorded with": {name: version(name) for name in ("torch", "transformers")},
        "configs": {label: config_json(label) for label in CASES},
        "names": names,
    }
    recording.write(path, rows, notes, weights)


def main() -> int:
    """Whether a line is above its tolerance, as an exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true", help="record what transformers gives")
    options.add_argument("--only", default="", help="rows whose name contains this")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    if chosen.write:
        write(RECORDED)
        print(f"{RECORDED.name}: {RECORDED.stat().st_size / 2**20:.1f} MiB")
        return 0
    bad = count = 0
    for label in CASES:
        for side in SIDES if chosen.only in label else ():
            gap = compared(label, side)
            good = all(x <= CASES[label].tolerance for x in gap)
            bad, count = bad + (not good), count + 1
            numbers = f"{gap.value:10.1e}{gap.gradient:10.1e}{'' if good else '  above tolerance'}"
            print(f"{label:32}padded {side:16}{numbers}", flush=True)
    print(f"jax {version('jax')}: {count - bad} of {count} lines within tolerance")
    return int(bad > 0 or not count)


if __name__ == "__main__":
    sys.exit(main())
