"""AdamW in one pass over memory per parameter, and its learning rate schedule.

The update is written out instead of chained from optax because a chain materializes clipped gradients and updates,
which on CPUs doubles the time of the update, a sizeable share of a step for small students.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jdistill.train.config import AdamWConfig, in_steps
from jdistill.train.groups import Groups, Params, Settings

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]

SHAPES: dict[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "linear": lambda x: 1.0 - x,
    "cosine": lambda x: 0.5 * (1.0 + jnp.cos(jnp.pi * x)),
    "constant": jnp.ones_like,
}
"""Progress between warmup and end, in [0, 1] -> fraction of the peak learning rate."""


class AdamWState(NamedTuple):
    """Running means of the gradient and of its square; each has the trained parameters' tree structure, float32."""

    mean: Params
    square: Params


class Norms(NamedTuple):
    """Global L2 norms of one update, over the trained parameters."""

    gradient: Float[Array, ""]
    """Before clipping."""
    update: Float[Array, ""]
    """Of the change of the parameters."""


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2).

        m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
        p = p - s lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)

    where `g` is the gradient clipped to the global norm `clip_norm`, `t` counts from 1, and `s` (`lr_scale`) and
    `decay` are those of the parameter's group. Frozen parameters (`s` = 0) are excluded.
    Parity: torch.nn.utils.clip_grad_norm_ followed by torch.optim.AdamW, whose clipping differs by at most 1e-6 / norm.

    Args:
      config: hyperparameters.
      total_steps: length of the run, for the schedule.
      frozen: regular expressions of full parameter paths to freeze, whatever the groups say.
    """

    def __init__(self, config: AdamWConfig, total_steps: int, *, frozen: Sequence[str] = ()):
        self.config = config
        self.schedule = make_schedule(config, total_steps)
        self.groups = Groups(config, frozen)

    def init(self, params: Params) -> AdamWState:
        """The state before the first update: zeros for all trained parameters.

        Args:
          params: all parameters, frozen ones included.

        Raises:
          UserError: if the groups do not match the parameters, or all parameters are frozen.
          ValueError: if a parameter matches none of DECAY_RULES.
        """
        self.groups.check(params)
        trained, _ = self.groups.split(params)
        return AdamWState(jax.tree.map(jnp.zeros_like, trained), jax.tree.map(jnp.zeros_like, trained))

    def update(
        self, gradients: Params, state: AdamWState, trained: Params, step: Int[Array, ""]
    ) -> tuple[Params, AdamWState, Norms]:
        """Apply one update to the trained parameters; `step` is the number of updates done before."""
        config = self.config
        norm = optax.tree.norm(gradients)
        shrink = (
            jnp.float32(1.0) if config.clip_norm is None else config.clip_norm / jnp.maximum(norm, config.clip_norm)
        )
        t = (step + 1).astype(jnp.float32)
        rate = self.schedule(step)
        mean_bias, square_bias = 1 - config.b1**t, 1 - config.b2**t

        def one(p: Array, g: Array, m: Array, v: Array, settings: Settings) -> tuple[Array, Array, Array]:
            g = g * shrink
            m = config.b1 * m + (1 - config.b1) * g
            v = config.b2 * v + (1 - config.b2) * g * g
            direction = (m / mean_bias) / (jnp.sqrt(v / square_bias) + config.eps)
            if settings.weight_decay:
                direction = direction + settings.weight_decay * p
            return p - settings.lr_scale * rate * direction, m, v

        new = jax.tree.map(one, trained, gradients, state.mean, state.square, self.groups.settings(trained))
        # Without the barrier XLA recomputes the whole update inside the norm's reduction, which it does not vectorise.
        new_params, mean, square = jax.lax.optimization_barrier(
            jax.tree.transpose(jax.tree.structure(trained), jax.tree.structure((0, 0, 0)), new)
        )
        change = optax.tree.norm(jax.tree.map(jnp.subtract, new_params, trained))
        return new_params, AdamWState(mean, square), Norms(norm, change)


def make_schedule(config: AdamWConfig, total_steps: int) -> Schedule:
    """Number of updates done -> learning rate of the next: linear warmup from 0, then decay by `config.schedule`.

    Parity: transformers' get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup and
    get_constant_schedule_with_warmup.
    """
    warmup = min(in_steps(config.warmup, total_steps), total_steps)
    rest = max(total_steps - warmup, 1)
    shape = SHAPES[config.schedule]

    def schedule(step: Int[Array, ""]) -> Float[Array, ""]:
        t = step.astype(jnp.float32)
        down = shape(jnp.clip((t - warmup) / rest, 0.0, 1.0))
        return config.peak_lr * jnp.where(t < warmup, t / max(warmup, 1), down)

    return schedule
