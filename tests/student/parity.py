"""Print how far every encoder is from transformers: python -m tests.student.parity

One line per encoder x option x padding side, with the largest relative difference of every layer's hidden states and of
the whole gradient: in float32 from transformers, in bfloat16 from float32, and in packed rows from padded ones. In
bfloat16 it is the length of the difference, with the random weights that transformers begins with and with the large
ones of all other columns; beside it stands what transformers loses there. Then one line per pooling and head: the
largest difference of any number between the student's vectors and those of its export, loaded by each library. Exit
code 1 if a line is above its tolerance.
"""

import argparse
import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import tests.conftest  # noqa: F401  (strict numerics, before JAX starts)
from tests.student import heads_parity
from tests.student.encoders.cases import CASES
from tests.student.encoders.measure import (
    DRAWS,
    PACKED,
    SIDES,
    Difference,
    allowed,
    difference,
    expected,
    ours,
    packed,
    rounded,
)

ENCODER_COLUMNS = ("float32", *(f"{whose}, {draw}" for draw in DRAWS for whose in ("bfloat16", "theirs")), "packed")


class Line(NamedTuple):
    """One row of a table."""

    name: str
    option: str
    gaps: dict[str, Difference]
    """Column -> what was found."""
    tolerances: dict[str, Difference]
    """Column -> what is allowed, where anything is not."""

    @property
    def good(self) -> bool:
        """False for NaN too."""
        return all(
            found <= allowed
            for column, tolerance in self.tolerances.items()
            for found, allowed in zip(self.gaps[column], tolerance, strict=True)
        )


def encoder_lines(label: str) -> list[Line]:
    """An encoder, padded on either side."""
    warnings.simplefilter("ignore")
    logging.disable()
    tolerance, lines = CASES[label].tolerance, []
    for side in SIDES:
        gaps = {"float32": difference(ours(label, side), expected(label, side))}
        tolerances = {"float32": Difference(tolerance, tolerance)}
        for draw in DRAWS:
            half, theirs = rounded(label, side, draw)
            gaps |= {f"bfloat16, {draw}": half, f"theirs, {draw}": theirs}
            tolerances[f"bfloat16, {draw}"] = allowed(label, draw, theirs)
        if side == "right":
            gaps["packed"], tolerances["packed"] = difference(*packed(label)), Difference(PACKED, PACKED)
        lines.append(Line(label, f"padded {side}", gaps, tolerances))
    return lines


def markdown(title: str, lines: Sequence[Line], columns: Sequence[str]) -> Iterator[str]:
    """A table; each cell has value and gradient."""
    yield f"| {title} | | {' | '.join(columns)} |"
    yield "|---" * (2 + len(columns)) + "|"
    for line in lines:
        gaps = [line.gaps.get(column) for column in columns]
        cells = [f"{gap.value:.1e}, {gap.gradient:.1e}" if gap else "" for gap in gaps]
        yield f"| {line.name} | {line.option} |" + "".join(f" {cell} |" for cell in cells)


def plain(line: Line, columns: Sequence[str]) -> str:
    """A line for the terminal."""
    gaps = [line.gaps.get(column) for column in columns]
    shown = "".join(" " * 20 if gap is None else f"{gap.value:10.1e}{gap.gradient:10.1e}" for gap in gaps)
    return f"{line.name:32}{line.option:16}{shown}{'' if line.good else '  above tolerance'}"


def main() -> int:
    """Whether a line is above its tolerance, as an exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="rows whose name contains this")
    options.add_argument("--markdown", type=Path, help="write the table here")
    chosen = options.parse_args()
    labels = [label for label in CASES if chosen.only in label]
    print(f"{'':48}" + "".join(f"{column:>20}" for column in ENCODER_COLUMNS))
    print(f"{'encoder, option':32}{'':16}" + f"{'value':>10}{'gradient':>10}" * len(ENCODER_COLUMNS))
    lines: list[Line] = []
    spawn = multiprocessing.get_context("spawn")  # JAX must not be forked
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), mp_context=spawn) as pool:
        for found in pool.map(encoder_lines, labels):
            lines += found
            for line in found:
                print(plain(line, ENCODER_COLUMNS), flush=True)
    logging.disable()
    heads: list[heads_parity.Row] = []
    print(f"\n{'pooling or head':40}{'loaded as':44}" + "".join(f"{column:>24}" for column in heads_parity.COLUMNS))
    for row in heads_parity.rows(chosen.only):
        heads.append(row)
        print(heads_parity.plain(row), flush=True)
    bad, count = sum(not line.good for line in (*lines, *heads)), len(lines) + len(heads)
    print(f"{count - bad} of {count} lines within tolerance")
    if chosen.markdown is not None:
        table = [*markdown("encoder, option", lines, ENCODER_COLUMNS), "", *heads_parity.markdown(heads)]
        chosen.markdown.write_text("\n".join(table) + "\n", encoding="utf-8")
    return int(bad > 0 or not count)


if __name__ == "__main__":
    sys.exit(main())
