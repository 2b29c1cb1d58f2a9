"""Learning rate schedules: a linear warmup from 0, then a decay that depends on the kind."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import AfterValidator, BeforeValidator, Field

from jdistill.config import Config

MOST_STEPS = 2**31 - 1
"""The step counter is int32 on the devices."""


def _whole_from_one_on(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"is {value}; expected a whole number of steps, or a fraction of the run below 1")
    return value


StepsOrFraction = Annotated[float, Field(ge=0, le=MOST_STEPS), AfterValidator(_whole_from_one_on)]
"""A number of steps (>= 1), or a fraction of the run (< 1)."""


def in_steps(value: float, total: int) -> int:
    """Convert a `StepsOrFraction` to steps; a fraction above 0 gives at least one step."""
    if value >= 1 or value == 0:
        return int(value)
    return max(1, round(value * total))


class ScheduleConfig(Config):
    """What all schedules share. A subclass adds `kind` and `scale`."""

    warmup: StepsOrFraction = 0.1
    """Steps in which the learning rate rises linearly from 0 to `peak_lr` (>= 1), or a fraction of the run (< 1)."""

    def scale(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """The learning rate after warmup, as a fraction of the peak.

        Args:
          after: steps since warmup, float32.
          rest: steps from warmup to the end, at least 1.
          total: steps of the run.
        """
        raise NotImplementedError


class Linear(ScheduleConfig):
    """Linear decay to 0."""

    kind: Literal["linear"] = "linear"
    """Which schedule."""

    def scale(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """1 - x, where x is the fraction done of the steps after warmup."""
        return 1.0 - jnp.clip(after / rest, 0.0, 1.0)


class Cosine(ScheduleConfig):
    """Cosine decay to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts)."""

    kind: Literal["cosine"] = "cosine"
    """Which schedule."""

    def scale(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """(1 + cos(pi x)) / 2, where x is the fraction done of the steps after warmup."""
        return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(after / rest, 0.0, 1.0)))


class Constant(ScheduleConfig):
    """No decay: the peak learning rate until the end."""

    kind: Literal["constant"] = "constant"
    """Which schedule."""

    def scale(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """1 in every step."""
        return jnp.ones_like(after)


class WarmupStableDecay(ScheduleConfig):
    """The peak learning rate, then a decay to 0 in the last steps (Hu et al. 2024, arXiv:2404.06395, section 4)."""

    kind: Literal["wsd"] = "wsd"
    """Which schedule."""
    decay: StepsOrFraction = Field(default=0.2, gt=0)
    """Last steps, in which the learning rate falls to 0 (>= 1), or a fraction of the run (< 1)."""
    shape: Literal["linear", "sqrt"] = "linear"
    """Shape of the decay: `1 - x`, or the steeper `1 - sqrt(x)` (Hägele et al. 2024, arXiv:2405.18392)."""

    def scale(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """1, then 1 - x or 1 - sqrt(x), where x is the fraction done of the decay."""
        steps = min(in_steps(self.decay, total), rest)
        x = jnp.clip((after - (rest - steps)) / steps, 0.0, 1.0)
        return 1.0 - (x if self.shape == "linear" else jnp.sqrt(x))


def _linear_by_default(value: Any) -> Any:
    return {"kind": "linear", **value} if isinstance(value, Mapping) else value


Schedule = Annotated[
    Annotated[Linear | Cosine | Constant | WarmupStableDecay, Field(discriminator="kind")],
    BeforeValidator(_linear_by_default),
]
"""Any schedule, distinguished by `kind`."""


def make_schedule(config: ScheduleConfig, peak_lr: float, total_steps: int) -> optax.Schedule:
    """The learning rate as a function: number of updates done -> learning rate of the next update, float32.

    Parity: optax's linear, cosine and constant schedules joined after a linear one; transformers'
    get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup, get_constant_schedule_with_warmup and
    get_wsd_schedule.
    """
    warmup = min(in_steps(config.warmup, total_steps), total_steps)
    rest = max(total_steps - warmup, 1)

    def schedule(step: Any) -> Float[Array, ""]:
        t = jnp.asarray(step).astype(jnp.float32)
        decayed = config.scale(t - warmup, rest=rest, total=total_steps)
        return peak_lr * jnp.where(t < warmup, t / max(warmup, 1), decayed)

    return schedule
