"""Lengths within a run, as numbers of steps or shares of the run."""

from typing import Annotated

from pydantic import AfterValidator, Field


def _whole_from_one_on(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"is {value}; from 1 on it counts steps, so give a whole number, or a share below 1")
    return value


MOST_STEPS = 2**31 - 1
"""A step is a number of 32 bits on the devices."""

StepsOrShare = Annotated[float, Field(ge=0, le=MOST_STEPS), AfterValidator(_whole_from_one_on)]
"""From 1 on a number of steps; below 1 a share of the whole run."""


def in_steps(value: float, total: int) -> int:
    """A `StepsOrShare` as a number of steps; a share above 0 is at least one step."""
    if value >= 1 or value == 0:
        return int(value)
    return max(1, round(value * total))
