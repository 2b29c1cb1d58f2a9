"""Numbers that change during training."""

from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import AfterValidator, Field, model_validator

from jdistill.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
"""A fraction of training, 0 at its first step and 1 after its last."""


class Ramp(Config):
    """A value that is constant until `begin`, moves to its end value, and is constant after `end`."""

    start: float
    """Value until `begin`."""
    stop: float
    """Value from `end` on."""
    begin: Share = 0.0
    """Fraction of training after which the value starts to move."""
    end: Share = 1.0
    """Fraction of training after which it has reached `stop`."""
    shape: Literal["linear", "quadratic"] = "linear"
    """How it moves: linearly, or with the square of the fraction, slowly at first."""

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> "Ramp":
        if self.end <= self.begin:
            raise ValueError(f"end {self.end} is not after begin {self.begin}; both are fractions of training.")
        return self


Scheduled = float | Ramp
"""A constant or a ramp."""


def _at_least_0(ramp: Ramp) -> Ramp:
    if min(ramp.start, ramp.stop) < 0:
        raise ValueError(f"ramp from {ramp.start} to {ramp.stop}: the value is never below 0.")
    return ramp


NonNegative = Annotated[float, Field(ge=0)] | Annotated[Ramp, AfterValidator(_at_least_0)]
"""A constant or a ramp, of at least 0."""

POWERS = {"linear": 1, "quadratic": 2}


def at(value: Scheduled, progress: Float[Array, ""]) -> Float[Array, ""]:
    """The value of a number or ramp at `progress`, the fraction of training done.

    Example:
      >>> [float(at(Ramp(start=0.2, stop=0.0, end=0.5), jnp.float32(p))) for p in (0.0, 0.25, 0.9)]
      [0.20000000298023224, 0.10000000149011612, 0.0]
    """
    if not isinstance(value, Ramp):
        return jnp.float32(value)
    way = jnp.clip((progress - value.begin) / (value.end - value.begin), 0.0, 1.0)
    return value.start + (value.stop - value.start) * way ** POWERS[value.shape]
