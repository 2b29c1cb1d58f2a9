"""AdamW as one pass over memory per parameter, its learning rate schedule, and which parameters decay.

The update is written out instead of chained from optax because a chain materialises clipped gradients and updates:
on a CPU that doubles the time of the update, which for small students is a sizeable share of a step.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jdistill.train.config import AdamWConfig, in_steps

DECAY_RULES: tuple[tuple[str, bool], ...] = (
    (r"losses/.*", False),
    (r".*/(bias|scale)", False),
    (r".*/(kernel|words|positions|types)", True),
)
"""Pattern of a parameter's whole path -> whether it decays. The first that matches counts; each parameter needs one."""

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]

SHAPES: dict[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "linear": lambda x: 1.0 - x,
    "cosine": lambda x: 0.5 * (1.0 + jnp.cos(jnp.pi * x)),
    "constant": jnp.ones_like,
}
"""Share of the way from warmup to the end -> share of the peak learning rate."""


class AdamWState(NamedTuple):
    """Running means of the gradient and of its square, each in the form of the parameters, float32."""

    mean: PyTree[Array]
    square: PyTree[Array]


class Norms(NamedTuple):
    """Global L2 norms of one update."""

    gradient: Float[Array, ""]
    """Before clipping."""
    update: Float[Array, ""]
    """Of the change of the parameters."""


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2).

        m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
        p = p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)

    where `g` is the gradient scaled down to the global norm `clip_norm`, and `t` counts from 1.
    Parity: torch.nn.utils.clip_grad_norm_ followed by torch.optim.AdamW, whose clipping differs by at most 1e-6 / norm.

    Args:
      config: its hyperparameters.
      total_steps: length of the run, over which the learning rate goes down.
    """

    def __init__(self, config: AdamWConfig, total_steps: int):
        self.config = config
        self.schedule = make_schedule(config, total_steps)

    def init(self, params: PyTree[Array]) -> AdamWState:
        """The state before the first update: zeros.

        Raises:
          ValueError: if a parameter matches none of DECAY_RULES.
        """
        decays(params)
        return AdamWState(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(
        self, gradients: PyTree[Array], state: AdamWState, params: PyTree[Array], step: Int[Array, ""]
    ) -> tuple[PyTree[Array], AdamWState, Norms]:
        """Parameters and state after one update; `step` counts the updates done before."""
        config = self.config
        norm = optax.tree.norm(gradients)
        shrink = (
            jnp.float32(1.0) if config.clip_norm is None else config.clip_norm / jnp.maximum(norm, config.clip_norm)
        )
        t = (step + 1).astype(jnp.float32)
        rate = self.schedule(step)
        mean_bias, square_bias = 1 - config.b1**t, 1 - config.b2**t

        def one(p: Array, g: Array, m: Array, v: Array, decay: bool) -> tuple[Array, Array, Array]:
            g = g * shrink
            m = config.b1 * m + (1 - config.b1) * g
            v = config.b2 * v + (1 - config.b2) * g * g
            direction = (m / mean_bias) / (jnp.sqrt(v / square_bias) + config.eps)
            if decay:
                direction = direction + config.weight_decay * p
            return p - rate * direction, m, v

        new = jax.tree.map(one, params, gradients, state.mean, state.square, decays(params))
        # Without the barrier XLA recomputes the whole update inside the norm's reduction, which it does not vectorise.
        new_params, mean, square = jax.lax.optimization_barrier(
            jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), new)
        )
        change = optax.tree.norm(jax.tree.map(jnp.subtract, new_params, params))
        return new_params, AdamWState(mean, square), Norms(norm, change)


def make_schedule(config: AdamWConfig, total_steps: int) -> Schedule:
    """Number of updates done -> learning rate of the next: up from 0 on a line, then down as `config.schedule` says.

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


def decays(params: PyTree[Array]) -> PyTree[bool]:
    """Whether each parameter decays, by DECAY_RULES.

    Raises:
      ValueError: naming every parameter that no rule covers.
    """
    uncovered: list[str] = []

    def rule(path: Any, _: Array) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, decay in DECAY_RULES:
            if re.fullmatch(pattern, name):
                return decay
        uncovered.append(name)
        return False

    result = jax.tree.map_with_path(rule, params)
    if uncovered:
        raise ValueError(
            f"optimizer: {len(uncovered)} parameters match no rule of weight decay: {', '.join(uncovered)}. "
            "Add a rule to DECAY_RULES in train/optimizer.py."
        )
    return result
