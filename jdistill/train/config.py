"""How a student is trained: length of the run, optimizer, and what happens at which step."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from jdistill.config import Config, UserError


def _whole_from_one_on(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"is {value}; from 1 on it counts steps, so give a whole number, or a share below 1")
    return value


MOST_STEPS = 2**31 - 1
"""A step is a number of 32 bits on the devices."""

StepsOrShare = Annotated[float, Field(ge=0, le=MOST_STEPS), AfterValidator(_whole_from_one_on)]
"""From 1 on a number of steps; below 1 a share of the whole run."""


class Group(Config):
    """A rule of how parameters learn. Of each parameter the first rule that matches counts."""

    match: re.Pattern[str]
    """Regular expression of the whole path of a parameter, such as `student/encoder/layers/[0-2]/.*`; others begin
    with `student/pooling/`, `student/head/`, `student/projection/`, `student/lora/` or, of a loss, `losses/`."""
    lr_scale: float = Field(default=1.0, ge=0, le=1)
    """Learning rate of these parameters as a share of the schedule's, which peaks at `peak_lr`. 0 freezes them: they
    get no gradient, no optimizer state and no update, and memory holds nothing that only their gradient would need."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decay of all these parameters, biases and norms included; left out: as the optimizer's `weight_decay` says."""

    @model_validator(mode="after")
    def _frozen_is_frozen(self) -> "Group":
        if self.lr_scale == 0 and self.weight_decay:
            raise ValueError("lr_scale 0 freezes these parameters, so they cannot decay. Leave weight_decay out.")
        return self


class AdamWConfig(Config):
    """Adam with decoupled weight decay, under a learning rate schedule."""

    kind: Literal["adamw"] = "adamw"
    """Which optimizer."""
    peak_lr: float = Field(default=1e-4, gt=0)
    """Learning rate after warmup, the largest of the run; per step, not scaled by batch size."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after warmup: down to 0 on a line, down to 0 on half a cosine, or not at all."""
    warmup: StepsOrShare = 0.1
    """Steps over which the learning rate rises from 0 to `peak_lr` (>= 1), or their share of the run (< 1)."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decay of matrices and embedding tables, multiplied by the learning rate. Biases, norms and losses' own
    parameters do not decay."""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the running mean of gradients."""
    b2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of the running mean of squared gradients."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the mean of squares."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient, above which it is scaled down; null does not clip."""
    groups: list[Group] = Field(default_factory=list)
    """Rules for learning rates, freezing and decay by parameter, in order. Where there are any, every parameter must
    match one, and every rule must be the first match of at least one parameter."""


class KeepBest(Config):
    """The student is the best one that evaluation saw, instead of the last one."""

    metric: str
    """Name of a metric, as evaluation reports it."""
    mode: Literal["max", "min"] = "max"
    """Whether larger or smaller is better."""


class TrainConfig(Config):
    """One training run."""

    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Updates in the whole run. Give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the rows, such as 1 or 0.5. Give this or `steps`."""
    global_batch_size: int = Field(default=256, ge=1)
    """Rows per update over all devices and hosts."""
    microbatches: int = Field(default=1, ge=1)
    """Pieces in which a batch is encoded: more take less memory, and change no result. Losses that compare rows with
    each other wait for the vectors of all pieces, which takes one more forward pass (GradCache); without any such loss
    the gradients of the pieces are added up."""
    fsdp: int = Field(default=1, ge=1)
    """Devices over which parameters and optimizer state are split, large arrays only (FSDP): more take less memory
    for them and more communication, and change no result. Must divide the devices; 1 keeps them whole on each."""
    optimizer: AdamWConfig = AdamWConfig()
    """How gradients become updates."""
    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics.jsonl and of the log; loss and norms are those of the logged step."""
    evaluate_every: StepsOrShare | None = Field(default=0.1, gt=0)
    """Steps between evaluations (>= 1), or their share of the run (< 1); null evaluates only at the end."""
    evaluate_at_start: bool = True
    """Evaluate before the first update too."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints; the last step is always saved. A killed run goes on from its last checkpoint."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the latest checkpoints stay on disk, besides the best one."""
    keep_best: KeepBest | None = None
    """Which metric decides which step's student is the result; null takes the last step's."""
    sinks: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)
    """Where metrics go besides metrics.jsonl; needs the extra of the same name."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.steps is None) == (self.epochs is None):
            given = "neither is" if self.steps is None else "both are"
            raise ValueError(f"steps and epochs: {given} given. Give exactly one, such as steps: 1000 or epochs: 1.")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Updates in the whole run, at least 1.

        Raises:
          UserError: if the epochs have more steps than a run can count.
        """
        if self.steps is not None:
            return self.steps
        steps = max(1, round((self.epochs or 0) * steps_per_epoch))
        if steps > MOST_STEPS:
            raise UserError(
                f"train.epochs: {self.epochs:g} passes of {steps_per_epoch:,} steps each are more than the "
                f"{MOST_STEPS:,} steps that a run can have. Give fewer."
            )
        return steps


def in_steps(value: float, total: int) -> int:
    """A `StepsOrShare` as a number of steps; a share above 0 is at least one step."""
    if value >= 1 or value == 0:
        return int(value)
    return max(1, round(value * total))
