"""The training state."""

from collections.abc import Mapping
from typing import Any, NamedTuple

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
    ema: PyTree[Array] | None = None
    """Moving average of the student's trained parameters, with their tree structure; None without `train.ema`."""


def make_state(
    params: PyTree[Array],
    terms: Mapping[str, LossConfig],
    optimizer: optax.GradientTransformation,
    groups: Groups,
    *,
    ema: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      params: the student's parameters; copied, because a step donates its input's buffers.
      terms: the loss terms, whose learnable values become parameters.
      optimizer: initializes its own state, of the trained parameters.
      groups: which parameters are trained.
      ema: keep a moving average, which begins with the parameters.

    Raises:
      UserError: if the groups do not fit the parameters, or nothing is left to train.
      ValueError: if it is not known whether a parameter decays.
    """
    losses = {name: values for name, term in terms.items() if (values := term.parameters())}
    every = {"student": jax.tree.map(lambda x: jnp.array(x, copy=True), params), "losses": losses}
    groups.check(every)
    trained, _ = groups.split(every)
    # A copy, since a step donates the state, and a buffer can be donated only once.
    averaged = jax.tree.map(jnp.copy, trained.get("student")) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), every, optimizer.init(trained), averaged)


def to_parts(state: TrainState) -> dict[str, PyTree[Array]]:
    """The state as named parts of a checkpoint; `"student"` can be read without the rest."""
    rest = {"step": state.step, "losses": state.params["losses"], "opt_state": state.opt_state}
    if state.ema is None:
        return {"student": state.params["student"], "rest": rest}
    # The part named student is what evaluation and exports use: the average in place of the trained parameters, which
    # go to the rest for resuming.
    student, trained = _exchanged(state.params["student"], state.ema)
    return {"student": student, "rest": rest | {"trained": trained}}


def from_parts(parts: Mapping[str, PyTree[Array]]) -> TrainState:
    """Inverse of `to_parts`."""
    rest, student, ema = parts["rest"], parts["student"], None
    if "trained" in rest:
        student, ema = _exchanged(student, rest["trained"])
    return TrainState(rest["step"], {"student": student, "losses": rest["losses"]}, rest["opt_state"], ema)


def student_of(state: TrainState) -> PyTree[Array]:
    """The student's parameters as evaluated and exported: the moving average if the run keeps one."""
    return to_parts(state)["student"]


def _exchanged(whole: Mapping[str, Any], part: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nested dicts with the leaves of `part` in place of their own, and those that were there."""
    new, old = dict(whole), dict[str, Any]()
    for key, value in part.items():
        new[key], old[key] = _exchanged(whole[key], value) if isinstance(value, Mapping) else (value, whole[key])
    return new, old
