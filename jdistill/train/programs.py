"""Compiled train steps, one per batch shape, compiled in the background in the order in which they are needed.

Compilation overlaps with training: a step waits only if its program is not ready yet.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
from jax.sharding import Mesh

from jdistill.parallel import row_sharding, state_sharding
from jdistill.train.state import TrainState
from jdistill.train.step import TrainStep
from jdistill.types import Batch, Metrics

Shapes = tuple[tuple[int, ...], ...]


class Programs:
    """A train step compiled ahead of time for several batch shapes; called like the step itself.

    Args:
      train_step: the step under `jax.jit`.
      mesh: the devices.
      state: a train state; only its shapes are used.
      examples: a batch of each shape, on the host, in order of need. Other shapes are compiled when they occur.
    """

    def __init__(self, train_step: TrainStep, mesh: Mesh, state: TrainState, examples: Iterable[Batch]):
        self._train_step = train_step
        # One at a time, in the order of need, so that the first program is ready as early as possible.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile")
        self._programs: dict[Shapes, Future[Callable[[TrainState, Batch], tuple[TrainState, Metrics]]]] = {}
        processes, rows = jax.process_count(), row_sharding(mesh)
        state_form = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, state_sharding(state, mesh)
        )
        for example in examples:
            # An example has the rows of this process; a program is for those of all.
            form = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((x.shape[0] * processes, *x.shape[1:]), x.dtype, sharding=rows), example
            )
            self._programs[_shapes(form)] = self._pool.submit(self._compile, state_form, form)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Run one update with the program for this batch shape."""
        program = self._programs.get(_shapes(batch))
        # `result` waits for the compilation, and raises its error.
        return self._train_step(state, batch) if program is None else program.result()(state, batch)

    def close(self) -> None:
        """Cancel the compilations that have not started, and wait for the one that has."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _compile(self, state: TrainState, batch: Batch) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
        return self._train_step.lower(state, batch).compile()  # pyright: ignore[reportFunctionMemberAccess]


def _shapes(batch: Batch) -> Shapes:
    return tuple(x.shape for x in jax.tree.leaves(batch))
