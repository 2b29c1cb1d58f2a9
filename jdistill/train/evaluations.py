"""What a run's evaluations decide: which student is the best, and whether to stop early."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from jdistill.config import Config, UserError


class KeepBest(Config):
    """Keep the student of the best evaluation instead of the last step."""

    metric: str
    """Name of a metric as reported by evaluation, such as `sts/spearman_cosine`."""
    mode: Literal["max", "min"] = "max"
    """Whether larger (max) or smaller (min) is better."""


class EarlyStopping(Config):
    """End the run when a metric has stopped improving (Prechelt 1998, "Early stopping - but when?", criterion UP)."""

    metric: str
    """Name of a metric as reported by evaluation, such as `sts/spearman_cosine`."""
    mode: Literal["max", "min"] = "max"
    """Whether larger (max) or smaller (min) is better."""
    patience: int = Field(default=3, ge=1)
    """The run ends after this many evaluations in a row without an improvement."""
    min_change: float = Field(default=0.0, ge=0)
    """A value counts as an improvement if it is better than the best one before by more than this."""


class Best(NamedTuple):
    """The best evaluation so far, by `keep_best`."""

    step: int
    value: float
    evaluation: dict[str, float]


class Patience(NamedTuple):
    """What early stopping remembers."""

    value: float
    """The best value so far."""
    evaluations: int
    """Number of evaluations since then."""


class Evaluations:
    """The evaluations of a run so far, as stored with each checkpoint.

    Args:
      keep_best: how to choose the best step, if the run does.
      early_stopping: when to end the run early, if at all.
    """

    def __init__(self, keep_best: KeepBest | None, early_stopping: EarlyStopping | None):
        self._keep_best = keep_best
        self._early_stopping = early_stopping
        self.last: dict[str, float] | None = None
        """Metrics of the last evaluation."""
        self.best: Best | None = None
        self.patience: Patience | None = None

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of a step.

        Raises:
          UserError: if the metric of `keep_best` or `early_stopping` is not among them.
        """
        self.last = metrics
        if self._keep_best is not None:
            value = _metric("keep_best", self._keep_best.metric, metrics)
            if _is_better(value, self.best, self._keep_best.mode):
                self.best = Best(step, value, metrics)
        if self._early_stopping is not None:
            value = _metric("early_stopping", self._early_stopping.metric, metrics)
            self.patience = after_evaluation(self._early_stopping, self.patience, value)

    @property
    def best_step(self) -> int | None:
        """Step of the best student; None without `keep_best`."""
        return None if self.best is None else self.best.step

    @property
    def of_result(self) -> dict[str, float]:
        """Metrics of the student that the run results in: the best one's, or the last; empty without evaluation."""
        return (self.last if self.best is None else self.best.evaluation) or {}

    @property
    def stop_reason(self) -> str | None:
        """Why early stopping ends the run now; None if it does not."""
        stopping, patience = self._early_stopping, self.patience
        if stopping is None or patience is None or patience.evaluations < stopping.patience:
            return None
        return f"{stopping.metric} has not improved for {patience.evaluations} evaluations"

    def as_json(self) -> dict[str, Any]:
        """The values to store with a checkpoint."""
        return {
            "evaluation": self.last,
            "best": None if self.best is None else self.best._asdict(),
            "waiting": None if self.patience is None else self.patience._asdict(),
        }

    def restore(self, stored: Mapping[str, Any], *, comparable: bool) -> None:
        """Continue from the values of `as_json`.

        Args:
          stored: contains the values of `as_json`.
          comparable: whether they were measured by the same evaluation as those to come. Otherwise the best value and
            the waiting start over.
        """
        self.last = stored["evaluation"]
        if comparable:
            best, waiting = stored["best"], stored.get("waiting")
            self.best = None if best is None else Best(**best)
            self.patience = None if waiting is None else Patience(**waiting)


def after_evaluation(config: EarlyStopping, before: Patience | None, value: float) -> Patience:
    """The patience after one more evaluation. NaN is never an improvement."""
    sign = 1.0 if config.mode == "max" else -1.0
    if before is None or math.isnan(before.value) or sign * (value - before.value) > config.min_change:
        return Patience(value, 0)
    return Patience(before.value, before.evaluations + 1)


def _is_better(value: float, best: Best | None, mode: Literal["max", "min"]) -> bool:
    """Whether a value is the new best; NaN never is. On a tie the earlier step wins, unless it is step 0: untrained."""
    if math.isnan(value):
        return False
    if best is None or (best.step == 0 and value == best.value):
        return True
    return value > best.value if mode == "max" else value < best.value


def _metric(option: str, name: str, metrics: Mapping[str, float]) -> float:
    if name not in metrics:
        raise UserError(f"train.{option}.metric: evaluation reports no '{name}'. It reports: {', '.join(metrics)}.")
    return metrics[name]
