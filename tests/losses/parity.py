"""Print how far every loss is from its reference and from itself on several devices: python -m tests.losses.parity

One line per loss x option x batch, with the largest relative difference in value and in gradient; on several devices
with gathered candidates, and on RING devices round a ring. With --markdown one row per loss x option. Exit code 1 if a
line is above its tolerance: 1e-5, or 1e-2 for bfloat16 inputs.
"""

import argparse
import logging
import multiprocessing
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import tests.conftest  # noqa: F401  (eight CPU devices and strict numerics, before JAX starts)
from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import Difference, difference, expected, ours
from tests.parallel.sharded import sharded

DEVICES = (2, 4, 8)
RING = 4
NONE = Difference(0.0, 0.0)


class Line(NamedTuple):
    """One loss x option on one batch."""

    label: str
    batch: str
    reference: Difference
    devices: dict[int, Difference]
    """From itself on one device; only where the rows divide."""
    ring: Difference | None
    """The same, with candidates handed round a ring of RING devices."""

    @property
    def good(self) -> bool:
        """False for NaN too."""
        gaps = (self.reference, *self.devices.values(), self.ring or NONE)
        return all(x <= INPUTS[self.batch].tolerance for gap in gaps for x in gap)


def lines(label: str) -> list[Line]:
    """Every batch that a case fits."""
    warnings.simplefilter("ignore")
    logging.disable()
    found = []
    for name, inputs in INPUTS.items():
        if fits(CASES[label], inputs):
            devices = {
                n: difference(label, sharded(label, name, n), ours(label, name))
                for n in DEVICES
                if inputs.rows % n == 0
            }
            divides = inputs.rows % RING == 0
            ring = difference(label, sharded(label, name, RING, 0), ours(label, name)) if divides else None
            found.append(Line(label, name, difference(label, ours(label, name), expected(label, name)), devices, ring))
    return found


def numbers(gap: Difference | None) -> str:
    return " " * 20 if gap is None else f"{gap.value:10.1e}{gap.gradient:10.1e}"


def worst(gaps: list[Difference]) -> Difference:
    return Difference(max((gap.value for gap in gaps), default=0.0), max((gap.gradient for gap in gaps), default=0.0))


def table(everything: list[Line]) -> Iterator[str]:
    """Markdown: one row per loss x option, the largest difference over its batches."""
    heads = [
        "float32, value",
        "float32, gradient",
        "bfloat16 inputs",
        *(f"{n} devices" for n in DEVICES),
        f"ring of {RING}",
    ]
    yield "| loss, option | batches | " + " | ".join(heads) + " |"
    yield "|---" * (len(heads) + 2) + "|"
    for label in dict.fromkeys(line.label for line in everything):
        mine = [line for line in everything if line.label == label]
        full = worst([line.reference for line in mine if line.batch != "bfloat16"])
        half = worst([line.reference for line in mine if line.batch == "bfloat16"])
        split = [
            max(worst([line.devices[n] for line in mine if n in line.devices and line.batch != "bfloat16"]))
            for n in DEVICES
        ]
        ring = max(worst([line.ring for line in mine if line.ring and line.batch != "bfloat16"]))
        cells = [full.value, full.gradient, max(half), *split, ring]
        yield f"| {label} | {len(mine)} | " + " | ".join(f"{x:.1e}" for x in cells) + " |"


PREFACE = """# Parity of losses

Every loss and option beside its reference: torch in float64, from sentence-transformers where it has the loss, else
written from the paper. Each is compared on a batch of one, equal rows, zero vectors, duplicate texts, excluded
candidates, 0, 1 and 7 hard negatives, plain texts and bfloat16 inputs, as far as it takes them; then with itself on 2,
4 and 8 devices and on a ring of 4. The table shows the largest relative difference in value and gradient over the
batches; a line above 1e-5, or 1e-2 for bfloat16 inputs, fails the command.

    python -m tests.losses.parity --markdown docs/parity.md

{versions}. {lines:,} lines (loss x option x batch), {good:,} within tolerance.

"""


def preface(everything: list[Line]) -> str:
    """What the table shows, and what it was made with."""
    names = ("jax", "torch", "sentence-transformers")
    versions = ", ".join(f"{name} {version(name)}" for name in names) + f", {platform.machine()} CPU"
    return PREFACE.format(versions=versions, lines=len(everything), good=sum(line.good for line in everything))


def main() -> int:
    """Number of lines above tolerance, as an exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="losses whose label contains this")
    options.add_argument("--markdown", type=Path, help="write the table of losses x options here")
    chosen = options.parse_args()
    labels = [label for label in CASES if chosen.only in label]
    heads = ["reference", *(f"{n} devices" for n in DEVICES), f"ring of {RING}"]
    print(f"{'':80}" + "".join(f"{head:>20}" for head in heads))
    print(f"{'loss, option':52}{'batch':28}" + f"{'value':>10}{'gradient':>10}" * len(heads))
    everything: list[Line] = []
    spawn = multiprocessing.get_context("spawn")  # JAX must not be forked
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), mp_context=spawn) as pool:
        for found in pool.map(lines, labels):
            everything += found
            for line in found:
                gaps = (line.reference, *(line.devices.get(n) for n in DEVICES), line.ring)
                shown = "".join(numbers(gap) for gap in gaps)
                print(f"{line.label:52}{line.batch:28}{shown}{'' if line.good else '  above tolerance'}", flush=True)
    bad = sum(not line.good for line in everything)
    print(f"{len(everything) - bad} of {len(everything)} lines within tolerance")
    if chosen.markdown is not None:
        text = preface(everything) + "\n".join(table(everything)) + "\n"
        chosen.markdown.write_text(text, encoding="utf-8")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
