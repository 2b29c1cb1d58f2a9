"""Lengths within a run, as numbers of steps or fractions of the run."""

from typing import Annotated

from pydantic import AfterValidator, Field


def _whole_from_one_on(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"is {value}; expected a whole number of steps, or a fraction of the run below 1")
    return value


MOST_STEPS = 2**31 - 1
"""The step counter is int32 on the devices."""

StepsOrShare = Annotated[float, Field(ge=0, le=MOST_STEPS), AfterValidator(_whole_from_one_on)]
"""A number of steps (>= 1), or a fraction of the run (< 1)."""


def in_steps(value: float, total: int) -> int:
    """Convert a `StepsOrShare` to steps; a fraction above 0 gives at least one step."""
    if value >= 1 or value == 0:
        return int(value)
    return max(1, round(value * total))
