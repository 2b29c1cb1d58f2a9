"""Plans of successive epochs: a different order each time, with the same number of steps and the same shapes.

So a step's batch follows from its number alone, and the lengths of epochs and schedules are exact. Without duplicate
texts this is always the case. With them, the number of batches may depend on the random order: an order that needs more
is rejected and another drawn, and if none fits, the batches of epoch 0 are repeated in another order. Numbers of packed
rows are not part of these shapes, since they depend on the devices, while batches do not (layouts.py).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from jdistill.loader.plan import EpochPlan
from jdistill.loader.shapes import Shape

Planner = Callable[[Int[np.ndarray, " n"]], EpochPlan]
"""Random order of all rows -> the epoch's batches."""

_ATTEMPTS = 3
"""Orders tried per epoch before the batches of epoch 0 are repeated."""
_REPEATED = 50
"""If an order needs fewer batches than epoch 0, up to one in this many of its batches is used twice."""
_KEPT = 2
"""Plans kept in memory: prefetching starts the next epoch before the current one ends."""


class Epochs:
    """The plan of each epoch, computed once; thread-safe."""

    def __init__(self, planner: Planner, rows: int, *, keep_last: bool, seed: int):
        self._planner = planner
        self._rows = rows
        self._keep_last = keep_last
        self._seed = seed
        self._lock = threading.Lock()
        self._plans: OrderedDict[int, EpochPlan] = OrderedDict()
        self.first = self._shuffled(self._attempt(0, 0), 0)
        self.shapes = tuple(Shape(int(q), int(d)) for q, d in np.unique(self.first.shapes, axis=0))
        """All planned shapes of the batches, the same in every epoch, ascending."""

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of this epoch; the two most recently used are cached."""
        if epoch == 0:
            return self.first
        # Prefetching threads may ask for the same epoch, which is planned once.
        with self._lock:
            if epoch not in self._plans:
                self._plans[epoch] = self._make(epoch)
                while len(self._plans) > _KEPT:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(epoch)
            return self._plans[epoch]

    def _make(self, epoch: int) -> EpochPlan:
        for attempt in range(_ATTEMPTS):
            plan = self._fitted(self._attempt(epoch, attempt))
            if plan is not None:
                return self._shuffled(plan, epoch)
        return self._shuffled(self.first, epoch)

    def _attempt(self, epoch: int, attempt: int) -> EpochPlan:
        return self._planner(permutation(self._rows, self._seed, epoch, attempt))

    def _fitted(self, plan: EpochPlan) -> EpochPlan | None:
        """The plan adjusted to the steps and shapes of epoch 0, or None if that is impossible."""
        steps = len(self.first.rows)
        missing = steps - len(plan.rows)
        # Every row must be seen, so a batch may be used twice, but none dropped.
        if self._keep_last and 0 < missing <= steps // _REPEATED:
            plan = EpochPlan(*(np.concatenate([part, part[:missing]]) for part in plan))
        elif missing > 0 or (self._keep_last and missing < 0):
            return None
        # Cheapest first: `argmax` below finds the first that is large enough.
        known = np.array(sorted(self.shapes, key=sum), np.int32)
        fits = (known[None, :, :] >= plan.shapes[:steps, None, :]).all(axis=-1)
        if not fits.any(axis=-1).all():
            return None
        return EpochPlan(plan.rows[:steps], known[fits.argmax(axis=1)])

    def _shuffled(self, plan: EpochPlan, epoch: int) -> EpochPlan:
        # Attempts have the keys 0 to _ATTEMPTS - 1; this is one more.
        order = permutation(len(plan.rows), self._seed, epoch, _ATTEMPTS)
        return EpochPlan(plan.rows[order], plan.shapes[order])


def permutation(n: int, *key: int) -> Int[np.ndarray, " n"]:
    """A random permutation of `n` elements, determined by the key.

    Sorts raw random bits, because NumPy guarantees those, but not `Generator.permutation`, to be the same in every
    release: a run resumed after an upgrade must continue with the same batches.
    """
    bits = np.random.Philox(np.random.SeedSequence([part % 2**64 for part in key])).random_raw(n)
    return np.argsort(bits, kind="stable")
