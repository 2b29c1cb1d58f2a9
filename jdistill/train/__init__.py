"""Training: state, optimizer, one step, the loop around it, and where its numbers go."""

from typing import TYPE_CHECKING, Any

from jdistill.train.config import AdamWConfig, KeepBest, TrainConfig

__all__ = ["AdamWConfig", "KeepBest", "TrainConfig", "TrainResult", "train"]

if TYPE_CHECKING:
    from jdistill.train.loop import TrainResult, train


def __getattr__(name: str) -> Any:
    """The loop, imported when it is first needed: reading a configuration must not wait for orbax and grain."""
    if name in ("train", "TrainResult"):
        from jdistill.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module 'jdistill.train' has no attribute {name!r}")
