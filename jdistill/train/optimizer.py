"""Optimizers: the options of each, and the optax.GradientTransformation they configure."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import optax
import optax.contrib
from jaxtyping import Array, PyTree
from pydantic import BeforeValidator, Field, model_validator

from jdistill.config import Config, UserError
from jdistill.train.adamw import fused_adamw
from jdistill.train.groups import Group, Groups, Params, path_of
from jdistill.train.schedule import ScheduleConfig, make_schedule

MOVED = ("schedule", "warmup")
"""Settings that moved to `train.schedule`."""


class OptimizerConfig(Config):
    """What all optimizers share. A subclass adds `kind` and `transformation`."""

    peak_lr: float = Field(default=1e-4, gt=0)
    """Learning rate after warmup, the highest of the run; not scaled by batch size."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of matrices and embedding tables, multiplied by the learning rate. Biases, norms and parameters of
    losses do not decay."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Gradients with a larger global norm are scaled down to this norm; null does not clip."""
    groups: list[Group] = Field(default_factory=list)
    """Rules that set learning rate and decay of some parameters, or freeze them; the first match counts. If there are
    any, every parameter must match one, and every rule must be the first match of at least one parameter."""

    @model_validator(mode="before")
    @classmethod
    def _schedule_is_its_own_section(cls, given: Any) -> Any:
        moved = [key for key in MOVED if key in given] if isinstance(given, Mapping) else []
        if moved:
            kind = given.get("schedule", "linear")
            warmup = f", warmup: {given['warmup']}" if "warmup" in given else ""
            raise ValueError(
                f"{' and '.join(moved)} moved to a section of their own. Write train.schedule: "
                f"{{kind: {kind}{warmup}}} instead."
            )
        return given

    def transformation(self, schedule: optax.Schedule, groups: Groups) -> optax.GradientTransformation:
        """Make the transformation from gradients of the trained parameters to updates, which are added to them.

        Args:
          schedule: number of updates done -> learning rate.
          groups: learning rate scale and weight decay of each parameter.
        """
        raise NotImplementedError


class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    """Which optimizer."""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the running mean of gradients."""
    b2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of the running mean of squared gradients."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the square root of the mean of squares."""

    def transformation(self, schedule: optax.Schedule, groups: Groups) -> optax.GradientTransformation:
        """Equal to optax.adamw, but in one pass over memory."""
        return fused_adamw(schedule, groups.settings, b1=self.b1, b2=self.b2, eps=self.eps, clip_norm=self.clip_norm)


class Adafactor(OptimizerConfig):
    """Adam that stores the mean of squares per row and per column only (Shazeer and Stern 2018, arXiv:1804.04235)."""

    kind: Literal["adafactor"] = "adafactor"
    """Which optimizer."""
    peak_lr: float = Field(default=1e-3, gt=0)
    """Learning rate after warmup, the highest of the run; with `relative`, as a fraction of each parameter's size."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Gradients with a larger global norm are scaled down to this norm; null does not clip."""
    relative: bool = True
    """Multiply each parameter's update by the root mean square of the parameter, at least 1e-3."""
    decay_exponent: float = Field(default=0.8, gt=0, le=1)
    """The decay rate of the mean of squares in update t is 1 - t^-decay_exponent."""
    clip_rms: float | None = Field(default=1.0, gt=0)
    """Largest root mean square of a parameter's update, before the learning rate; null does not clip."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Decay rate of a running mean of updates, which takes as much memory as the parameters; null for none."""
    factor_from: int = Field(default=128, ge=2)
    """The mean of squares is stored per row and column if a parameter's two longest axes are at least this long."""

    def transformation(self, schedule: optax.Schedule, groups: Groups) -> optax.GradientTransformation:
        """optax.adafactor, but with weight decay multiplied by the learning rate."""
        return _chain(
            self,
            schedule,
            groups,
            optax.scale_by_factored_rms(decay_rate=self.decay_exponent, min_dim_size_to_factor=self.factor_from),
            optax.identity() if self.clip_rms is None else optax.clip_by_block_rms(self.clip_rms),
            optax.scale_by_param_block_rms() if self.relative else optax.identity(),
            optax.identity() if self.momentum is None else optax.ema(self.momentum, debias=False),
        )


class Lion(OptimizerConfig):
    """Updates by the sign of a running mean of gradients (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

    kind: Literal["lion"] = "lion"
    """Which optimizer."""
    peak_lr: float = Field(default=3e-5, gt=0)
    """Learning rate after warmup, the highest of the run: the amount by which every value changes."""
    weight_decay: float = Field(default=0.03, ge=0)
    """Weight decay of matrices and embedding tables, multiplied by the learning rate. Biases, norms and parameters of
    losses do not decay."""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """The sign is that of `b1` times the running mean plus `1 - b1` times the gradient."""
    b2: float = Field(default=0.99, ge=0, lt=1)
    """Decay rate of the running mean of gradients."""

    def transformation(self, schedule: optax.Schedule, groups: Groups) -> optax.GradientTransformation:
        """optax.lion with this clipping, decay and groups."""
        return _chain(self, schedule, groups, optax.scale_by_lion(self.b1, self.b2))


class Muon(OptimizerConfig):
    """Orthogonalized momentum for the matrices of layers, Adam for all other parameters (Jordan 2024).

    A matrix's update is scaled to the usual root mean square of Adam's updates, so that both share one learning rate.
    Source: https://kellerjordan.github.io/posts/muon/; the scale is that of Liu et al. 2025, arXiv:2502.16982, eq. 4.
    """

    kind: Literal["muon"] = "muon"
    """Which optimizer."""
    matrices: re.Pattern[str] = re.compile(r"student/(encoder|pooling|head)/.*kernel")
    """Regular expression of full parameter paths. Muon updates the matching parameters that have two axes, Adam all
    others: by default embedding tables, as Muon's author advises, and projections that only losses use."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay rate of the running mean of a matrix's gradients."""
    iterations: int = Field(default=5, ge=1)
    """Number of Newton-Schulz iterations that orthogonalize this mean."""
    rms: float = Field(default=0.2, gt=0)
    """Root mean square of a matrix's update, before the learning rate; Adam's is about 0.2."""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """Adam's decay rate of the running mean of gradients, with Nesterov momentum."""
    b2: float = Field(default=0.999, ge=0, lt=1)
    """Adam's decay rate of the running mean of squared gradients."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the square root of Adam's mean of squares, and to the norm by which a matrix is divided."""

    def transformation(self, schedule: optax.Schedule, groups: Groups) -> optax.GradientTransformation:
        """optax.contrib.muon with this clipping, decay and groups."""
        muon = optax.contrib.muon(
            learning_rate=1.0,
            ns_steps=self.iterations,
            beta=self.momentum,
            eps=self.eps,
            adam_b1=self.b1,
            adam_b2=self.b2,
            consistent_rms=self.rms,
            muon_weight_dimension_numbers=self._dimensions,  # pyright: ignore[reportArgumentType]
        )

        def init(params: Params) -> optax.OptState:
            if not any(self._is_matrix(path, x) for path, x in jax.tree.leaves_with_path(params)):
                raise UserError(
                    f"train.optimizer.matrices: {self.matrices.pattern!r} matches no trained parameter with two axes, "
                    "so Muon has nothing to update. Correct the pattern, or set optimizer.kind: adamw."
                )
            return muon.init(params)

        # optax's muon returns what is added to the parameters; _chain negates after adding the weight decay.
        checked = optax.GradientTransformation(init, muon.update)  # pyright: ignore[reportArgumentType]
        return _chain(self, schedule, groups, checked, optax.scale(-1.0))

    def _dimensions(self, params: Params) -> PyTree[Any]:
        """The axes of each matrix that Muon updates (kernels are `[in, out]`); None for Adam's parameters."""
        numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
        return jax.tree.map_with_path(lambda path, x: numbers if self._is_matrix(path, x) else None, params)

    def _is_matrix(self, path: Any, x: Array) -> bool:
        return x.ndim == 2 and self.matrices.fullmatch(path_of(path)) is not None


def _adamw_by_default(value: Any) -> Any:
    return {"kind": "adamw", **value} if isinstance(value, Mapping) else value


Optimizer = Annotated[
    Annotated[AdamW | Adafactor | Lion | Muon, Field(discriminator="kind")], BeforeValidator(_adamw_by_default)
]
"""Any optimizer, distinguished by `kind`."""


def make_optimizer(
    config: OptimizerConfig, schedule: ScheduleConfig, total_steps: int, groups: Groups
) -> optax.GradientTransformation:
    """The optimizer for a run's trained parameters.

    Its `update` needs the parameters as third argument. Its state consists of arrays only, so it is sharded, saved and
    restored like the parameters.

    Args:
      config: which optimizer, and its hyperparameters.
      schedule: warmup and decay of the learning rate.
      total_steps: length of the run, over which the learning rate decays.
      groups: learning rate scale and weight decay of each parameter.
    """
    return config.transformation(make_schedule(schedule, config.peak_lr, total_steps), groups)


def _chain(
    config: OptimizerConfig, schedule: optax.Schedule, groups: Groups, *direction: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Chain clipping, `direction`, and each group's weight decay and learning rate."""

    def rest(lr_scale: float, weight_decay: float) -> optax.GradientTransformation:
        # Decay is added after `direction`, which therefore does not scale it (decoupled, as in AdamW), and before the
        # learning rate, which does.
        rate = optax.scale_by_learning_rate(lambda step: lr_scale * schedule(step))
        return optax.chain(optax.add_decayed_weights(weight_decay), rate)

    # Outside the partition, so that the norm is that of all groups together.
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    by_group = optax.partition({name: rest(*each) for name, each in groups.kinds.items()}, groups.labels)
    chain = optax.chain(clip, *direction, by_group)

    def update(gradients: Params, state: optax.OptState, params: Params | None = None) -> tuple[Any, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            return chain.update(gradients, state, params)

    return optax.GradientTransformation(chain.init, update)  # pyright: ignore[reportArgumentType]
