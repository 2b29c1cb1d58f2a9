"""Training config: length of the run, optimizer, logging, evaluation and checkpoints."""

import math
from typing import Literal

from pydantic import Field, model_validator

from jdistill.config import Config, UserError
from jdistill.train.evaluations import EarlyStopping, KeepBest
from jdistill.train.optimizer import AdamW, Optimizer
from jdistill.train.schedule import MOST_STEPS, Linear, Schedule, StepsOrFraction


class Averaging(Config):
    """An exponential moving average of the student's parameters (Tarvainen and Valpola 2017, arXiv:1703.01780)."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Factor by which the weight of a step shrinks with each later step; 0.999 averages about the last 1000 steps. The
    weights add up to 1 from the first step on."""


class CheckpointAverage(Config):
    """The uniform average of the last checkpoints' parameters (Izmailov et al. 2018, arXiv:1803.05407)."""

    last: int = Field(ge=2)
    """Number of checkpoints: the one of the last step, and those of the last multiples of `save_every` before it."""


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
    optimizer: Optimizer = AdamW()
    """Optimizer, with parameter groups."""
    schedule: Schedule = Linear()
    """Learning rate schedule: warmup from 0 to the optimizer's `peak_lr`, and what follows."""
    ema: Averaging | None = None
    """Evaluate, keep and export an exponential moving average of the student's parameters instead of the parameters,
    which are trained as before. Takes 4 bytes per trained parameter."""
    average_checkpoints: CheckpointAverage | None = None
    """Make the average of the last checkpoints the result, and the subject of the last evaluation, instead of the last
    step's student. These checkpoints are kept in addition to `keep_checkpoints`. Not with `ema`, `keep_best` or
    `early_stopping`."""
    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics.jsonl and of the log; loss and norms are those of the logged step."""
    evaluate_every: StepsOrFraction | None = Field(default=0.1, gt=0)
    """Steps between evaluations (>= 1), or a fraction of the run (< 1); null evaluates only at the end."""
    evaluate_at_start: bool = True
    """Also evaluate before the first update."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints; the last step is always saved. Interrupted runs resume from the last checkpoint."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of latest checkpoints to keep, besides the best one."""
    keep_best: KeepBest | None = None
    """Metric that selects the resulting student; null takes the last step's."""
    early_stopping: EarlyStopping | None = None
    """Ends the run when a metric stops improving; null trains all steps. The student is the last one unless `keep_best`
    selects another; the schedule is that of the whole run."""
    sinks: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)
    """Where to log metrics besides metrics.jsonl; each needs the extra of the same name."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.steps is None) == (self.epochs is None):
            given = "neither is" if self.steps is None else "both are"
            raise ValueError(f"steps and epochs: {given} set. Set exactly one, such as steps: 1000 or epochs: 1.")
        return self

    @model_validator(mode="after")
    def _one_result(self) -> "TrainConfig":
        reasons = {
            "ema": "both average the parameters",
            "keep_best": "both choose the resulting student",
            "early_stopping": "the average is of the last checkpoints of the whole run",
        }
        for option, reason in reasons.items():
            if self.average_checkpoints is not None and getattr(self, option) is not None:
                raise ValueError(f"average_checkpoints cannot be combined with {option}: {reason}. Remove one of them.")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Number of updates of the run, at least 1.

        Raises:
          UserError: if the epochs exceed the maximum number of steps, or `average_checkpoints` needs more checkpoints
            than the run saves.
        """
        steps = self.steps or max(1, round((self.epochs or 0) * steps_per_epoch))
        if steps > MOST_STEPS:
            raise UserError(
                f"train.epochs: {self.epochs:g} epochs of {steps_per_epoch:,} steps each exceed the maximum of "
                f"{MOST_STEPS:,} steps. Set fewer epochs."
            )
        average, saved = self.average_checkpoints, math.ceil(steps / self.save_every)
        if average is not None and average.last > saved:
            raise UserError(
                f"train.average_checkpoints.last: is {average.last}, but a run of {steps:,} steps with save_every "
                f"{self.save_every:,} has only {saved} checkpoints to average. Set a smaller last or save_every."
            )
        return steps
