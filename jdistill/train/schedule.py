"""Learning rate schedules: up from 0 on a line, then as each kind says."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import BeforeValidator, Field

from jdistill.config import Config
from jdistill.train.steps import StepsOrShare, in_steps


class ScheduleConfig(Config):
    """What all schedules share. A subclass adds `kind` and `share`."""

    warmup: StepsOrShare = 0.1
    """Steps over which the learning rate rises from 0 to `peak_lr` (>= 1), or their share of the run (< 1)."""

    def share(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """Share of the peak learning rate.

        Args:
          after: steps since warmup, float32.
          rest: steps from warmup to the end, at least 1.
          total: steps of the run.
        """
        raise NotImplementedError


class Linear(ScheduleConfig):
    """Down to 0 on a line."""

    kind: Literal["linear"] = "linear"
    """Which schedule."""

    def share(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """1 - x, where x is the share of the way from warmup to the end."""
        return 1.0 - jnp.clip(after / rest, 0.0, 1.0)


class Cosine(ScheduleConfig):
    """Down to 0 on half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts)."""

    kind: Literal["cosine"] = "cosine"
    """Which schedule."""

    def share(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """(1 + cos(pi x)) / 2, where x is the share of the way from warmup to the end."""
        return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(after / rest, 0.0, 1.0)))


class Constant(ScheduleConfig):
    """At the peak until the end."""

    kind: Literal["constant"] = "constant"
    """Which schedule."""

    def share(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """1."""
        return jnp.ones_like(after)


class WarmupStableDecay(ScheduleConfig):
    """At the peak, then down to 0 over the last steps (Hu et al. 2024, arXiv:2404.06395, section 4)."""

    kind: Literal["wsd"] = "wsd"
    """Which schedule."""
    decay: StepsOrShare = Field(default=0.2, gt=0)
    """Last steps over which the learning rate falls to 0 (>= 1), or their share of the run (< 1)."""
    shape: Literal["linear", "sqrt"] = "linear"
    """How it falls: `1 - x`, or `1 - sqrt(x)`, which falls faster at first (Hägele et al. 2024, arXiv:2405.18392)."""

    def share(self, after: Float[Array, ""], *, rest: int, total: int) -> Float[Array, ""]:
        """1, then 1 - x or 1 - sqrt(x), where x is the share of the decay that is done."""
        steps = min(in_steps(self.decay, total), rest)
        x = jnp.clip((after - (rest - steps)) / steps, 0.0, 1.0)
        return 1.0 - (x if self.shape == "linear" else jnp.sqrt(x))


def _linear_by_default(value: Any) -> Any:
    return {"kind": "linear", **value} if isinstance(value, Mapping) else value


Schedule = Annotated[
    Annotated[Linear | Cosine | Constant | WarmupStableDecay, Field(discriminator="kind")],
    BeforeValidator(_linear_by_default),
]
"""Any schedule, told apart by its `kind`."""


def make_schedule(config: ScheduleConfig, peak_lr: float, total_steps: int) -> optax.Schedule:
    """Number of updates done -> learning rate of the next, float32.

    Parity: optax's linear, cosine and constant schedules joined after a linear one; transformers'
    get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup, get_constant_schedule_with_warmup and
    get_wsd_schedule.
    """
    warmup = min(in_steps(config.warmup, total_steps), total_steps)
    rest = max(total_steps - warmup, 1)

    def schedule(step: Any) -> Float[Array, ""]:
        t = jnp.asarray(step).astype(jnp.float32)
        down = config.share(t - warmup, rest=rest, total=total_steps)
        return peak_lr * jnp.where(t < warmup, t / max(warmup, 1), down)

    return schedule
