"""Monitors a run: its terms, first batch, first losses and learned temperatures."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array

from jdistill.losses import LossConfig
from jdistill.train.diagnose.targets import check_targets
from jdistill.train.diagnose.temperatures import saturated
from jdistill.types import Batch

STEPS = 5
"""Number of first steps whose losses are checked."""


class Watch:
    """Checks a run as it proceeds, and reports each problem once.

    Args:
      terms: the loss terms, teachers filled in.
      say: receives each warning, such as `Console.say`.
    """

    def __init__(self, terms: Mapping[str, LossConfig], say: Callable[[str], None]):
        self.warnings: list[str] = []
        """Warnings so far, without the `warning: ` prefix."""
        self._terms = terms
        self._say = say
        self._losses: list[dict[str, Array]] = []

    def student(self, projections: Mapping[str, int], width: int) -> None:
        """Check what the terms train. Arguments as for `behind_projections`."""
        self._warn(only_trained_through_projection(self._terms, projections, width))

    def targets(self, batch: Batch) -> None:
        """Check the first batch, on the host. Raises as `check_targets` does."""
        self._warn(check_targets(self._terms, batch))

    def losses(self, values: dict[str, Array], *, last: bool) -> None:
        """Record the terms' values of one of the first steps; they are fetched from the device all at once.

        Args:
          values: each term's mean, before its weight is applied.
          last: whether this is the last step of the run.
        """
        if len(self._losses) == STEPS:
            return
        self._losses.append(values)
        if len(self._losses) == STEPS or last:
            self._warn(zero_losses(jax.device_get(self._losses)))

    def learned(self, parameters: Mapping[str, dict[str, Array]]) -> None:
        """Check the losses' learned parameters of a step, on the host."""
        self._warn(line for line in saturated(self._terms, parameters) if line not in self.warnings)

    def _warn(self, lines: Any) -> None:
        for line in lines:
            self.warnings.append(line)
            self._say(f"warning: {line}")


def only_trained_through_projection(
    terms: Mapping[str, LossConfig], projections: Mapping[str, int], width: int
) -> list[str]:
    """Warn if the student's own vectors are trained through projections only.

    A projection can compensate any change of lengths and angles, so the projected vectors can reach the teacher's
    cosines while the student's own vectors do not.

    Args:
      terms: the loss terms, teachers filled in.
      projections: teacher -> width of the student's projection to it.
      width: width of the student's own vectors.
    """
    if not terms or not all(
        term.needs().projection and set(term.teachers) <= set(projections) for term in terms.values()
    ):
        return []
    teacher, wide = next(iter(projections.items()))
    return [
        f"{', '.join(f'losses.{name}' for name in terms)}: the student's vectors (width {width}) are trained only "
        f"through a projection to teacher '{teacher}' (width {wide}), so their own cosines, which evaluation and "
        "exports use, may not distinguish texts. Make the projection part of the student, with student.head: "
        f"[{{kind: dense, out_features: {wide}}}, {{kind: normalize}}], or add a loss on the student's own vectors, "
        "such as info_nce; or export with export.projection: dense."
    ]


def zero_losses(steps: list[dict[str, Any]]) -> list[str]:
    """Warnings for terms whose value is exactly 0 in all of these steps."""
    return [
        f"losses.{name}: is exactly 0 in all of the first {len(steps)} steps, so it has no effect. Check its margins "
        "and thresholds, and that the rows have what it compares; or remove it."
        for name in steps[0]
        if all(float(step[name]) == 0 for step in steps)
    ]
