"""What is fixed in a training run, and what it results in."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jdistill.config import UserError
from jdistill.loader import Loader
from jdistill.losses import LossConfig
from jdistill.parallel import check_rows, host_share
from jdistill.student import Student
from jdistill.train.config import TrainConfig
from jdistill.train.groups import Groups, frozen_paths
from jdistill.train.optimizer import make_optimizer
from jdistill.train.schedule import in_steps
from jdistill.types import Batch

Evaluate = Callable[[PyTree[Array]], dict[str, float]]
"""Student parameters -> metric name -> value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """Everything that stays the same from the first step of a run to the last.

    Raises:
      UserError: if the rows do not divide over devices or processes, an option needs an evaluation and there is none,
        or the run is too long, or too short for `average_checkpoints`.
      ValueError: if the loader was made for another batch size, or another number of devices or microbatches.
    """

    config: TrainConfig
    student: Student
    """Encodes tokens into vectors."""
    terms: Mapping[str, LossConfig]
    """Name -> loss, teachers filled in."""
    loader: Loader
    """Batches by step, `config.global_batch_size` rows each."""
    evaluate: Evaluate | None
    """Student parameters -> metrics; None for no evaluation."""
    folder: Path
    """Checkpoints, metrics.jsonl, config.yaml, architecture and result.json."""
    recipe: dict[str, Any]
    """The resolved recipe, as plain values."""
    mesh: Mesh
    """The devices."""
    seed: int
    """Determines dropout and the losses' random numbers."""

    def __post_init__(self) -> None:
        config, loader = self.config, self.loader
        if config.global_batch_size != loader.global_batch_size:
            raise ValueError(f"the loader yields {loader.global_batch_size} rows, not global_batch_size")
        pieces = self.mesh.size * config.microbatches
        if loader.pieces not in (None, pieces):
            raise ValueError(f"the loader lays out batches in {loader.pieces} pieces, but they are encoded in {pieces}")
        check_rows(loader.global_batch_size, self.mesh)
        host_share(self.mesh)
        config.total_steps(loader.steps_per_epoch)
        for name, option in (("keep_best", config.keep_best), ("early_stopping", config.early_stopping)):
            if option is not None and self.evaluate is None:
                raise UserError(
                    f"train.{name}: there is no evaluation that reports '{option.metric}'. Add one, or remove {name}."
                )

    @cached_property
    def total(self) -> int:
        """Updates from step 0 to the end, also of a run that resumes in between."""
        return self.config.total_steps(self.loader.steps_per_epoch)

    @cached_property
    def groups(self) -> Groups:
        """Learning rate scale and weight decay of every parameter, by its path; scale 0 is frozen."""
        optimizer = self.config.optimizer
        return Groups(optimizer.groups, optimizer.weight_decay, frozen_paths(self.student))

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Turns gradients of the trained parameters into updates."""
        return make_optimizer(self.config.optimizer, self.config.schedule, self.total, self.groups)

    def evaluates(self, step: int) -> bool:
        """Whether the student is evaluated after this many updates."""
        if self.evaluate is None:
            return False
        if step == 0:
            return self.config.evaluate_at_start
        every = self.config.evaluate_every
        return step == self.total or (every is not None and step % in_steps(every, self.total) == 0)

    def batches(self, start: int) -> Iterator[Batch]:
        """Every batch from step `start` on, reduced to the rows of this host, in host memory."""
        return self.loader.stream(start, self.total, host_share(self.mesh))

    def examples(self, start: int) -> Iterator[Batch]:
        """The first batch of each shape from step `start` on, as `batches` yields them."""
        return self.loader.examples(start, self.total, host_share(self.mesh))


class TrainResult(NamedTuple):
    """What `train` returns: the resulting student, and how it was chosen."""

    params: PyTree[Array]
    """The student's parameters: the best with `keep_best`, the average with `average_checkpoints`, else the last."""
    step: int
    """Updates done."""
    best_step: int | None
    """Step of `params` with `keep_best`; otherwise None."""
    evaluation: dict[str, float]
    """Metrics of `params`; empty without evaluation."""
    warnings: tuple[str, ...] = ()
    """Warnings of diagnose/."""
