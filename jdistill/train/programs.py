"""Compiled steps, one per shape of batch, made in the background in the order in which they will be needed.

While one program trains, the next is compiled: compilation hides behind training, and a step waits only if it comes
before its program is ready.
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
    """A train step whose programs are compiled ahead; called like the step itself.

    Args:
      train_step: the step under `jax.jit`.
      mesh: the devices.
      state: a state as the step gets it; only shapes are looked at.
      examples: a batch of each shape, on the host, in order of need; a shape that is missing compiles when it comes.
    """

    def __init__(self, train_step: TrainStep, mesh: Mesh, state: TrainState, examples: Iterable[Batch]):
        self._train_step = train_step
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile")
        self._programs: dict[Shapes, Future[Callable[[TrainState, Batch], tuple[TrainState, Metrics]]]] = {}
        processes, rows = jax.process_count(), row_sharding(mesh)
        state_form = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, state_sharding(state, mesh)
        )
        for example in examples:
            form = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((x.shape[0] * processes, *x.shape[1:]), x.dtype, sharding=rows), example
            )
            self._programs[_shapes(form)] = self._pool.submit(self._compile, state_form, form)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update, by the program for this shape."""
        program = self._programs.get(_shapes(batch))
        return self._train_step(state, batch) if program is None else program.result()(state, batch)

    def close(self) -> None:
        """Compile no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _compile(self, state: TrainState, batch: Batch) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
        return self._train_step.lower(state, batch).compile()  # pyright: ignore[reportFunctionMemberAccess]


def _shapes(batch: Batch) -> Shapes:
    return tuple(x.shape for x in jax.tree.leaves(batch))
