"""Training config: length of the run, optimizer, logging, evaluation and checkpoints."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from jdistill.config import Config, UserError


def _whole_from_one_on(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"is {value}; expected a whole number of steps, or a fraction of the run below 1")
    return value


MOST_STEPS = 2**31 - 1
"""The step counter is int32 on the devices."""

StepsOrShare = Annotated[float, Field(ge=0, le=MOST_STEPS), AfterValidator(_whole_from_one_on)]
"""A number of steps (>= 1), or a fraction of the run (< 1)."""


class Group(Config):
    """A parameter group. Each parameter belongs to the first group that matches."""

    match: re.Pattern[str]
    """Regular expression for full parameter paths, such as `student/encoder/layers/[0-2]/.*`; other paths start with
    `student/pooling/`, `student/head/`, `student/projection/`, `student/lora/` or, for losses, `losses/`."""
    lr_scale: float = Field(default=1.0, ge=0, le=1)
    """Multiplies the learning rate. 0 freezes the parameters: no gradient, optimizer state or update, and no
    activations stored for their gradient."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of all parameters of the group, biases and norms included; default: the optimizer's
    `weight_decay`, which excludes these."""

    @model_validator(mode="after")
    def _frozen_is_frozen(self) -> "Group":
        if self.lr_scale == 0 and self.weight_decay:
            raise ValueError("lr_scale 0 freezes these parameters, so they cannot decay. Remove weight_decay.")
        return self


class AdamWConfig(Config):
    """Adam with decoupled weight decay and a learning rate schedule."""

    kind: Literal["adamw"] = "adamw"
    """Optimizer."""
    peak_lr: float = Field(default=1e-4, gt=0)
    """Learning rate after warmup; not scaled by batch size."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after warmup: linear decay to 0, cosine decay to 0, or constant."""
    warmup: StepsOrShare = 0.1
    """Steps of linear warmup from 0 to `peak_lr` (>= 1), or a fraction of the run (< 1)."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of matrices and embedding tables, multiplied by the learning rate. Biases, norms and
    parameters of losses do not decay."""
    b1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the running mean of gradients."""
    b2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of the running mean of squared gradients."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator, after the square root."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Maximum global norm of the gradient; null disables clipping."""
    groups: list[Group] = Field(default_factory=list)
    """Parameter groups with their own learning rate, freezing and weight decay; the first match applies. If there are
    any, every parameter must match one, and every group must be the first match of some parameter."""


class KeepBest(Config):
    """Keep the student of the best evaluation instead of the last step."""

    metric: str
    """Name of a metric as reported by evaluation, such as `sts/spearman_cosine`."""
    mode: Literal["max", "min"] = "max"
    """Whether larger (max) or smaller (min) is better."""


class TrainConfig(Config):
    """One training run."""

    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Number of updates. Set this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the rows, such as 1 or 0.5. Set this or `steps`."""
    global_batch_size: int = Field(default=256, ge=1)
    """Rows per update over all devices and hosts."""
    microbatches: int = Field(default=1, ge=1)
    """Number of microbatches in which a batch is encoded: more need less memory and give the same result. With losses
    that use in-batch negatives this costs one more forward pass (GradCache); otherwise gradients are accumulated."""
    fsdp: int = Field(default=1, ge=1)
    """Devices over which large parameters and their optimizer state are sharded (FSDP): more need less memory and more
    communication, and give the same result. Must divide the number of devices; 1 replicates everything."""
    optimizer: AdamWConfig = AdamWConfig()
    """Optimizer and learning rate schedule."""
    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics.jsonl and of the log; loss and norms are those of the logged step."""
    evaluate_every: StepsOrShare | None = Field(default=0.1, gt=0)
    """Steps between evaluations (>= 1), or a fraction of the run (< 1); null evaluates only at the end."""
    evaluate_at_start: bool = True
    """Also evaluate before the first update."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints; the last step is always saved. Interrupted runs resume from the last checkpoint."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of latest checkpoints to keep, besides the best one."""
    keep_best: KeepBest | None = None
    """Metric that selects the resulting student; null takes the last step's."""
    sinks: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)
    """Where to log metrics besides metrics.jsonl; each needs the extra of the same name."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.steps is None) == (self.epochs is None):
            given = "neither is" if self.steps is None else "both are"
            raise ValueError(f"steps and epochs: {given} set. Set exactly one, such as steps: 1000 or epochs: 1.")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Number of updates of the run, at least 1.

        Raises:
          UserError: if the epochs exceed the maximum number of steps.
        """
        if self.steps is not None:
            return self.steps
        steps = max(1, round((self.epochs or 0) * steps_per_epoch))
        if steps > MOST_STEPS:
            raise UserError(
                f"train.epochs: {self.epochs:g} epochs of {steps_per_epoch:,} steps each exceed the maximum of "
                f"{MOST_STEPS:,} steps. Set fewer epochs."
            )
        return steps


def in_steps(value: float, total: int) -> int:
    """Convert a `StepsOrShare` to steps; a fraction above 0 gives at least one step."""
    if value >= 1 or value == 0:
        return int(value)
    return max(1, round(value * total))
