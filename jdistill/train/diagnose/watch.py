"""Looks at a run as it begins and goes on: at its terms, its first batch and losses, its learned temperatures."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from jdistill.losses import LossConfig
from jdistill.train.diagnose.targets import examine
from jdistill.train.diagnose.temperatures import saturated
from jdistill.types import Batch

STEPS = 5
"""Losses are watched over so many first steps."""


class Watch:
    """Looks at a run and says each thing once.

    Args:
      terms: the loss terms, teachers filled in.
      say: where a line goes, such as the console.
    """

    def __init__(self, terms: Mapping[str, LossConfig], say: Callable[[str], None]):
        self.warnings: list[str] = []
        """What was said so far, without the word `warning`."""
        self._terms = terms
        self._say = say
        self._losses: list[dict[str, Array]] = []

    def student(self, projections: Mapping[str, int], width: int) -> None:
        """Look at what the terms train. Arguments as those of `behind_projections`."""
        self._warn(behind_projections(self._terms, projections, width))

    def targets(self, batch: Batch) -> None:
        """Look at the first batch, on the host. Raises as `examine` does."""
        self._warn(examine(self._terms, batch))

    def losses(self, values: dict[str, Array], *, last: bool) -> None:
        """Take the terms' values of a first step, still on the device; they are fetched together at the end.

        Args:
          values: each term's mean before its weight.
          last: whether the run ends here.
        """
        if len(self._losses) == STEPS:
            return
        self._losses.append(values)
        if len(self._losses) == STEPS or last:
            self._warn(zero_losses(jax.device_get(self._losses)))

    def learned(self, parameters: Mapping[str, dict[str, Array]]) -> None:
        """Look at the learned values of a step; they lie on the host."""
        self._warn(line for line in saturated(self._terms, parameters) if line not in self.warnings)

    def _warn(self, lines: Any) -> None:
        for line in lines:
            self.warnings.append(line)
            self._say(f"warning: {line}")


def behind_projections(terms: Mapping[str, LossConfig], projections: Mapping[str, int], width: int) -> list[str]:
    """Whether the student's own vectors are trained through projections alone; one line if so.

    The projection is free to undo whatever the student does to lengths and angles, so that the projected vectors come
    to have the teacher's cosines while the student's own need not.

    Args:
      terms: the loss terms, teachers filled in.
      projections: teacher -> width, for the teachers that the student is projected to.
      width: of the student's own vectors.
    """
    if not terms or not all(
        term.needs().projection and set(term.teachers) <= set(projections) for term in terms.values()
    ):
        return []
    teacher, wide = next(iter(projections.items()))
    return [
        f"{', '.join(f'losses.{name}' for name in terms)}: the student's own {width} numbers are trained only through a"
        f" projection to the {wide} of teacher '{teacher}', so nothing makes their own cosines tell texts apart, but "
        "these are what evaluation and an export compare. Make the projection part of the student, with student.head: "
        f"[{{kind: dense, out_features: {wide}}}, {{kind: normalize}}], or add a loss on its own vectors, such as "
        "info_nce; or export with export.projection: dense."
    ]


def zero_losses(steps: list[dict[str, Any]]) -> list[str]:
    """Terms whose value is exactly 0 in each of these steps."""
    return [
        f"losses.{name}: is exactly 0 in all of the first {len(steps)} steps, so nothing is learned from it. Check its "
        "margins and thresholds, and that the rows have what it compares; or leave it out."
        for name in steps[0]
        if all(float(step[name]) == 0 for step in steps)
    ]
