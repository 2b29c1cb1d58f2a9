"""What the losses have learned themselves: as metrics, and whether a temperature is at its limit."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdistill.losses import LossConfig
from jdistill.losses.temperature import NAME, Learned, temperature_of

EDGE = 1e-6
"""A learned temperature is at a limit if its logarithm is this close."""


def learned_values(terms: Mapping[str, LossConfig], parameters: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """What the terms have learned besides the student, as metrics: `temperature/<term>` and the like; numbers only."""
    values = {}
    for name, learned in parameters.items():
        for parameter, value in learned.items():
            limits = learned_temperature(terms[name])[1] if parameter == NAME else None
            if limits is not None:
                values[f"temperature/{name}"] = float(temperature_of(limits, {NAME: jnp.asarray(value)}))
            elif np.ndim(value) == 0:
                values[f"{parameter}/{name}"] = float(value)
    return values


def saturated(terms: Mapping[str, LossConfig], parameters: Mapping[str, dict[str, Any]]) -> list[str]:
    """Terms whose learned temperature is at one of its limits."""
    found = []
    for name, learned in parameters.items():
        path, limits = learned_temperature(terms[name])
        if limits is None or NAME not in learned:
            continue
        log = float(learned[NAME])
        for limit in ("min", "max"):
            value = getattr(limits, limit)
            if (log - math.log(value)) * (1 if limit == "max" else -1) > -EDGE:
                found.append(
                    f"losses.{name}: the learned temperature has reached its {limit} of {value:g} and is held there. "
                    f"Widen it with losses.{name}.{path}.{limit}, or give a number to fix the temperature."
                )
    return found


def learned_temperature(term: LossConfig) -> tuple[str, Learned | None]:
    """The temperature that a term, or the loss inside it, learns, and the path of its setting."""
    for field in type(term).model_fields:
        value = getattr(term, field)
        if isinstance(value, Learned):
            return field, value
        if isinstance(value, LossConfig):
            path, learned = learned_temperature(value)
            return f"{field}.{path}", learned
    return "", None
