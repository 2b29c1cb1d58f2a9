"""Being told to stop: a machine that is about to be taken away sends SIGTERM first.

One process keeps a flag. Several must stop after the same step, though the signal reaches them at different times, or
only one of them: JAX's coordination service then names a step that none of them has passed.
"""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptedError(Exception):
    """The run was told to stop, has saved where it stands and can go on from there."""


class Preemption:
    """Whether SIGTERM has come; a context manager, inside of which the signal ends nothing by itself.

    Where the runtime of several processes runs, JAX has taken the signal over already. In a thread other than the main
    one, Python allows no handler: there the signal acts as before.
    """

    def __init__(self) -> None:
        self._told = False
        self._before: Any = None
        self._own = not jax.distributed.is_initialized() and threading.current_thread() is threading.main_thread()

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; every process must ask at every step, and all get the same answer."""
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
