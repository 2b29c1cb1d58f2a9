"""What a row of the table of losses is, and what its reference is given."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jdistill.losses import LossConfig

TEACHER, SECOND = "t", "u"
CLASSES = 5
"""Labels that rows may have."""
WIDTH = 12
"""Of the student's vectors."""
Tensor = Any


class Texts(NamedTuple):
    """One side's vectors in torch float64, for a reference."""

    queries: Tensor | None
    documents: list[Tensor]
    """The positives, then each column of hard negatives, `[n, d]` each."""

    def columns(self) -> list[Tensor]:
        return [*([] if self.queries is None else [self.queries]), *self.documents]


class Given(NamedTuple):
    """All that a reference may look at, in torch float64; the whole batch, on one device."""

    student: Texts
    """In the student's own width. Leaves: torch differentiates with respect to them."""
    teacher: Texts | None
    """The case's teacher; of several, side by side."""
    projection: tuple[Tensor, Tensor] | None
    """Kernel `[d, t]` and bias `[t]`, leaves."""
    at_layer: dict[int, Texts]
    """Layers done -> vectors, leaves."""
    ids: tuple[Tensor | None, Tensor]
    """Numbers of the queries `[n]` and documents `[n, c]`."""
    scores: Tensor | None
    labels: Tensor | None
    """Class of each row, whole numbers."""
    parameters: dict[str, Tensor]
    """The term's learnable values, leaves."""
    progress: float

    def projected(self) -> Texts:
        """The student in the teacher's space."""
        if self.projection is None:
            return self.student
        kernel, bias = self.projection
        q, d = self.student
        return Texts(None if q is None else q @ kernel + bias, [x @ kernel + bias for x in d])


class Case(NamedTuple):
    loss: LossConfig
    reference: Callable[[Given], Tensor]
    """The loss of the batch, a scalar."""
    queries: bool = False
    """It cannot do without queries."""
    negatives: bool = False
    """It cannot do without hard negatives."""
    scores: Literal["pair", "binary", "documents", "margins"] | None = None
    """Which scores its rows have: one, one of 0 and 1, one per document, or the positive's minus each hard
    negative's."""
    labels: bool = False
    """Its rows have a class."""
    progress: float = 0.0
    projection: bool = True
    """False: the teacher has the student's width, and nothing lies between."""
