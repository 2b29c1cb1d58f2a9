"""A loss whose temperature runs to its limit."""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from jdistill.losses import LossConfig
from jdistill.losses.temperature import Learned, Temperature, temperature_of, temperature_parameters
from jdistill.types import LossInputs


class ShrinkingTemperature(LossConfig):
    """Lowest where its temperature is lowest."""

    kind: Literal["sharp"] = "sharp"
    temperature: Temperature = Learned(start=0.1, min=0.05, max=0.2)

    def parameters(self) -> dict[str, Array]:
        return temperature_parameters(self.temperature) | {"bias": jnp.float32(0.5)}

    def __call__(self, view: LossInputs) -> Any:
        return jnp.ones(len(view.rows)) * temperature_of(self.temperature, view.parameters)
