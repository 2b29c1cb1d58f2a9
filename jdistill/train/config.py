"""Training config: length of the run, optimizer, logging, evaluation and checkpoints."""

from typing import Literal

from pydantic import Field, model_validator

from jdistill.config import Config, UserError
from jdistill.train.optimizer import AdamW, Optimizer
from jdistill.train.schedule import Linear, Schedule
from jdistill.train.steps import MOST_STEPS, StepsOrShare
from jdistill.train.stopping import EarlyStopping


class KeepBest(Config):
    """Keep the student of the best evaluation instead of the last step."""

    metric: str
    """Name of a metric as reported by evaluation, such as `sts/spearman_cosine`."""
    mode: Literal["max", "min"] = "max"
    """Whether larger (max) or smaller (min) is better."""


class Averaging(Config):
    """An exponential moving average of the student's parameters (Tarvainen and Valpola 2017, arXiv:1703.01780)."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """What is left of a step's share after one more step: 0.999 averages over about the last 1000 steps. Shares add up
    to 1 from the first step on."""


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
