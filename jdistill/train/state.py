"""The training state."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jdistill.losses import LossConfig
from jdistill.train.groups import Groups


class TrainState(NamedTuple):
    """The full state of a run between two steps; a run that resumes from it continues as if never interrupted."""

    step: Int[Array, ""]
    """Updates done, int32."""
    params: dict[str, PyTree[Array]]
    """`{"student": ..., "losses": {term: {...}}}`, float32, frozen parameters included."""
    opt_state: optax.OptState
    """Covers trained parameters only."""


def make_state(
    params: PyTree[Array], terms: Mapping[str, LossConfig], optimizer: optax.GradientTransformation, groups: Groups
) -> TrainState:
    """The state before the first step.

    Args:
      params: the student's parameters; copied, because a step donates its input's buffers.
      terms: the loss terms, whose learnable values become parameters.
      optimizer: initializes its own state, of the trained parameters.
      groups: which parameters are trained.

    Raises:
      UserError: if the groups do not fit the parameters, or nothing is left to train.
      ValueError: if it is not known whether a parameter decays.
    """
    losses = {name: values for name, term in terms.items() if (values := term.parameters())}
    every = {"student": jax.tree.map(lambda x: jnp.array(x, copy=True), params), "losses": losses}
    groups.check(every)
    trained, _ = groups.split(every)
    return TrainState(jnp.zeros((), jnp.int32), every, optimizer.init(trained))


def to_parts(state: TrainState) -> dict[str, PyTree[Array]]:
    """The state as named parts of a checkpoint; `"student"` can be read without the rest."""
    rest = {"step": state.step, "losses": state.params["losses"], "opt_state": state.opt_state}
    return {"student": state.params["student"], "rest": rest}


def from_parts(parts: Mapping[str, PyTree[Array]]) -> TrainState:
    """Inverse of `to_parts`."""
    rest = parts["rest"]
    return TrainState(rest["step"], {"student": parts["student"], "losses": rest["losses"]}, rest["opt_state"])
