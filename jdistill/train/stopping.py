"""Stopping a run whose evaluations get no better."""

import math
from typing import Literal, NamedTuple

from pydantic import Field

from jdistill.config import Config


class EarlyStopping(Config):
    """The run ends when a metric has not improved for some evaluations in a row (Prechelt 1998, criterion UP)."""

    metric: str
    """Name of a metric, as evaluation reports it."""
    mode: Literal["max", "min"] = "max"
    """Whether larger or smaller is better."""
    patience: int = Field(default=3, ge=1)
    """Evaluations in a row without improvement, after which the run ends."""
    min_change: float = Field(default=0.0, ge=0)
    """An improvement is a change of more than this over the best value before."""


class Patience(NamedTuple):
    """How long a metric has not improved."""

    value: float
    """The best so far."""
    evaluations: int
    """Since then."""


def waited(config: EarlyStopping, before: Patience | None, value: float) -> Patience:
    """After one more evaluation; a value that is not a number is no improvement."""
    sign = 1.0 if config.mode == "max" else -1.0
    if before is None or math.isnan(before.value) or sign * (value - before.value) > config.min_change:
        return Patience(value, 0)
    return Patience(before.value, before.evaluations + 1)
