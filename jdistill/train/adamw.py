"""AdamW as one pass over memory per parameter.

The update is written out instead of chained from optax, which on a CPU takes 6 to 10 % longer (docs/performance.md).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jdistill.train.groups import Params, Settings


class AdamWState(NamedTuple):
    """Running means of the gradient and of its square, each in the form of the trained parameters, float32."""

    count: Int[Array, ""]
    """Updates done, int32."""
    mean: Params
    square: Params


def fused_adamw(
    schedule: optax.Schedule,
    settings: Callable[[Params], PyTree[Settings]],
    *,
    b1: float,
    b2: float,
    eps: float,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), and clipping.

        m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
        p = p - s lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)

    where `g` is the gradient scaled down to the global norm `clip_norm`, `t` counts from 1, and `s` (the share of the
    learning rate) and `decay` are those of the parameter's group.
    Parity: optax.chain(clip_by_global_norm, adamw); torch.nn.utils.clip_grad_norm_ followed by torch.optim.AdamW, whose
    clipping differs by at most 1e-6 / norm.

    Args:
      schedule: number of updates done -> learning rate.
      settings: trained parameters -> how each of them learns, in the same form.
      b1: decay rate of the running mean of gradients.
      b2: decay rate of the running mean of squared gradients.
      eps: added to the root of the mean of squares.
      clip_norm: largest global norm of the gradient; None does not clip.
    """

    def init(params: Params) -> AdamWState:
        # Two sets of zeros: the step donates both, and a buffer can be donated only once.
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamWState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Params, state: AdamWState, params: Params | None = None) -> tuple[Params, AdamWState]:
        if params is None:
            raise ValueError("weight decay needs the parameters; give them as the third argument")
        norm = optax.tree.norm(gradients)
        # 1 for gradients below the limit, clip_norm / norm above it.
        shrink = jnp.float32(1.0) if clip_norm is None else clip_norm / jnp.maximum(norm, clip_norm)
        t = (state.count + 1).astype(jnp.float32)
        rate = jnp.asarray(schedule(state.count))
        mean_bias, square_bias = 1 - b1**t, 1 - b2**t

        def one(p: Array, g: Array, m: Array, v: Array, group: Settings) -> tuple[Array, Array, Array]:
            g = g * shrink
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g * g
            direction = (m / mean_bias) / (jnp.sqrt(v / square_bias) + eps)
            # A Python number: parameters without decay have no such operation. Not part of g, so `v` does not scale it.
            if group.weight_decay:
                direction = direction + group.weight_decay * p
            return -(group.lr_scale * rate * direction), m, v

        new = jax.tree.map(one, params, gradients, state.mean, state.square, settings(params))
        # A tree of triples -> three trees.
        updates, mean, square = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), new)
        return updates, AdamWState(state.count + 1, mean, square)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
