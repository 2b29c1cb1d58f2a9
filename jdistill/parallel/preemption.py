"""Preemption: a machine that is about to be reclaimed sends SIGTERM first.

A single process sets a flag. Several processes must stop after the same step, although the signal arrives at different
times, or at only one of them: JAX's coordination service then chooses a step that none of them has passed.
"""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptedError(Exception):
    """The run was preempted; it has saved a checkpoint and can be resumed."""


class Preemption:
    """Context manager that catches SIGTERM and reports it through `reached`.

    With several processes, JAX's runtime already handles the signal. Outside the main thread Python allows no handler,
    and the signal acts as before.
    """

    def __init__(self) -> None:
        self._told = False
        self._before: Any = None
        self._own = not jax.distributed.is_initialized() and threading.current_thread() is threading.main_thread()

    def reached(self, step: int) -> bool:
        """Whether to stop after this step. Every process must call it in every step; the result is the same on all."""
        # Without a distributed runtime the second is always False.
        return self._told or multihost_utils.reached_preemption_sync_point(step)

    def __enter__(self) -> "Preemption":
        if self._own:
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True
