"""What training needs from outside: a loader, and numbers of how good a student is."""

from collections.abc import Callable, Iterator
from typing import Protocol

from jaxtyping import Array, PyTree

from jdistill.types import Batch

Evaluate = Callable[[PyTree[Array]], dict[str, float]]
"""Student parameters -> metric name -> value."""


class Loader(Protocol):
    """What training needs of a loader."""

    fingerprint: str
    """Equal exactly for loaders that yield the same batches."""
    global_batch_size: int

    @property
    def pieces(self) -> int | None:
        """Devices times microbatches that its batches are laid out for; None if any number will do."""
        ...

    @property
    def row_count(self) -> int:
        """Rows it draws from."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        ...

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Every pair of padded lengths that occurs."""
        ...

    @property
    def layout(self) -> str:
        """How texts lie in a batch, for people."""
        ...

    @property
    def padding(self) -> float:
        """Share of padding among all tokens."""
        ...

    def batch_padding(self, step: int) -> float:
        """Share of padding in the batch of a step."""
        ...

    def stream(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The rows of this host in the batches of steps `start` to `stop - 1`."""
        ...

    def examples(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The first batch of each shape among these steps."""
        ...
