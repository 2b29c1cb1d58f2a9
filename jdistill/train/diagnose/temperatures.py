"""Learned parameters of losses: as metrics, and a check for temperatures at their limit."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jdistill.losses import LossConfig
from jdistill.losses.temperature import NAME, Learned, temperature_of

EDGE = 1e-6
"""Maximum distance of a temperature's logarithm to that of a limit it has reached."""


def learned_values(terms: Mapping[str, LossConfig], parameters: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """The terms' scalar learned parameters as metrics, such as `temperature/<term>`."""
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
    """Warnings for terms whose learned temperature is at one of its limits."""
    found = []
    for name, learned in parameters.items():
        path, limits = learned_temperature(terms[name])
        if limits is None or NAME not in learned:
            continue
        log = float(learned[NAME])
        for limit in ("min", "max"):
            value = getattr(limits, limit)
            # The parameter itself may be beyond the limit: `temperature_of` clips its value only.
            if (log - math.log(value)) * (1 if limit == "max" else -1) > -EDGE:
                found.append(
                    f"losses.{name}: the learned temperature has reached its {limit} of {value:g} and stays there. "
                    f"Widen the range with losses.{name}.{path}.{limit}, or set a number to fix the temperature."
                )
    return found


def learned_temperature(term: LossConfig) -> tuple[str, Learned | None]:
    """Setting path and value of the learned temperature of a term or of the loss nested in it."""
    for field in type(term).model_fields:
        value = getattr(term, field)
        if isinstance(value, Learned):
            return field, value
        if isinstance(value, LossConfig):
            path, learned = learned_temperature(value)
            return f"{field}.{path}", learned
    return "", None
