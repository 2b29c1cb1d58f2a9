"""Temperatures: fixed, or learned with the student."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from pydantic import PositiveFloat, model_validator

from jdistill.config import Config


class Learned(Config):
    """A learned temperature, parametrised by its logarithm."""

    start: PositiveFloat
    """Value before the first step."""
    min: PositiveFloat = 0.01
    """Lower limit; the default is CLIP's, a factor of 100 on the scores."""
    max: PositiveFloat = 1.0
    """Upper limit."""

    @model_validator(mode="after")
    def _starts_within_its_limits(self) -> "Learned":
        if not self.min <= self.start <= self.max:
            raise ValueError(f"start {self.start} is not within min {self.min} and max {self.max}.")
        return self


Temperature = PositiveFloat | Learned
"""A number, or `{start, min, max}` to learn it."""

NAME = "log_temperature"


def temperature_parameters(temperature: Temperature) -> dict[str, Array]:
    """The learnable values a temperature adds to its term: its logarithm, or none."""
    return {NAME: jnp.float32(math.log(temperature.start))} if isinstance(temperature, Learned) else {}


def temperature_of(temperature: Temperature, parameters: dict[str, Array]) -> Float[Array, ""]:
    """The current temperature.

    A learned one is clipped to its limits with a straight-through gradient, so that it can leave a limit again.
    Source: Radford et al. 2021, arXiv:2103.00020, section 2.5.
    """
    if not isinstance(temperature, Learned):
        return jnp.float32(temperature)
    log = parameters[NAME]
    held = jnp.clip(log, math.log(temperature.min), math.log(temperature.max))
    # The value of `held`, with the derivative that `log` has: 1 also beyond a limit, where that of clip is 0.
    return jnp.exp(log + lax.stop_gradient(held - log))
