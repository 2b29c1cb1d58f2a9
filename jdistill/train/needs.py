"""Interfaces that training depends on: a loader and an evaluation function."""

from collections.abc import Callable, Iterator
from typing import Protocol

from jaxtyping import Array, PyTree

from jdistill.types import Batch

Evaluate = Callable[[PyTree[Array]], dict[str, float]]
"""Student parameters -> metric name -> value."""


class Loader(Protocol):
    """Interface of a loader."""

    fingerprint: str
    """Equal if and only if two loaders yield the same batches."""
    global_batch_size: int

    @property
    def pieces(self) -> int | None:
        """Devices times microbatches that the batch layout assumes; None if any number works."""
        ...

    @property
    def row_count(self) -> int:
        """Number of rows in the data."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """All pairs of padded lengths (query, document) that occur."""
        ...

    @property
    def layout(self) -> str:
        """Description of the batch layout, for logs."""
        ...

    @property
    def padding(self) -> float:
        """Fraction of padding among all tokens."""
        ...

    def batch_padding(self, step: int) -> float:
        """Fraction of padding in the batch of a step."""
        ...

    def stream(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Batches of steps `start` to `stop - 1`, reduced to the rows of this host."""
        ...

    def examples(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The first batch of each shape within these steps."""
        ...
