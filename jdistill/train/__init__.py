"""Training: state, optimizer, train step, training loop and metric sinks."""

from typing import TYPE_CHECKING, Any

from jdistill.train.config import TrainConfig
from jdistill.train.evaluations import KeepBest
from jdistill.train.optimizer import AdamW

__all__ = ["AdamW", "KeepBest", "Run", "TrainConfig", "TrainResult", "train"]

if TYPE_CHECKING:
    from jdistill.train.loop import Run, TrainResult, train


def __getattr__(name: str) -> Any:
    """Import the loop on first use, so that reading a config does not wait for orbax and grain."""
    if name in ("Run", "TrainResult", "train"):
        from jdistill.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module 'jdistill.train' has no attribute {name!r}")
