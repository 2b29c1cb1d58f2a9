"""The batches that every loss is tried on: the plain ones, and the awkward ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jdistill.types import PairEmbeddings
from tests.losses.cases import CLASSES, SECOND, TEACHER, WIDTH, Case

ROWS = 16
TEACHER_WIDTHS = {TEACHER: 20, SECOND: 8}
LAYERS = 3
"""Of the student whose hidden vectors a batch has; 0, 1 and 2 are the earlier ones."""


class Inputs(NamedTuple):
    student: PairEmbeddings
    at_layer: dict[int, PairEmbeddings]
    teachers: dict[str, PairEmbeddings]
    """Each near the student's vectors projected to its width."""
    near: dict[str, PairEmbeddings]
    """Teachers of the student's own width."""
    kernels: dict[str, np.ndarray]
    ids: tuple[np.ndarray | None, np.ndarray]
    scores: np.ndarray
    """A teacher's score of every document, `[n, c]`."""
    labels: np.ndarray
    """Class of each row; classes differ in size, and some have one row."""
    tolerance: float = 1e-5

    @property
    def rows(self) -> int:
        return self.student.documents.shape[0]


def fits(case: Case, inputs: Inputs) -> bool:
    """Whether the batch has what the loss cannot do without, and nothing that it excludes."""
    has_queries, c = inputs.student.queries is not None, inputs.student.documents.shape[1]
    finite = bool(np.isfinite(inputs.scores).all())
    return (
        (has_queries or not case.queries) and (c > 1 or not case.negatives) and (finite or case.scores == "documents")
    )


def scores_for(case: Case, inputs: Inputs) -> np.ndarray | None:
    """The scores of the batch in the form that the case's data has."""
    s = inputs.scores
    binary = np.float32(s[:, :1] > 0)
    return {None: None, "pair": s[:, :1], "binary": binary, "documents": s, "margins": s[:, :1] - s[:, 1:]}[case.scores]


def plain(*, rows: int = ROWS, negatives: int = 0, queries: bool = True) -> Inputs:
    """Random vectors of random length."""
    random = np.random.default_rng([rows, negatives, queries])

    def vectors(*shape: int) -> np.ndarray:
        length = random.uniform(0.5, 1.5, (*shape[:-1], 1))
        return (random.standard_normal(shape) / shape[-1] ** 0.5 * length).astype(np.float32)

    def columns() -> PairEmbeddings:
        return PairEmbeddings(vectors(rows, WIDTH) if queries else None, vectors(rows, 1 + negatives, WIDTH))

    student = columns()
    kernels = {name: (2 * vectors(WIDTH, width)) for name, width in TEACHER_WIDTHS.items()}
    noise = {name: 0.5 * vectors(1, width) for name, width in TEACHER_WIDTHS.items()}
    count = rows * (1 + negatives)
    return Inputs(
        student=student,
        at_layer={layer: _each(lambda x, y: x + 0.5 * y, student, columns()) for layer in range(LAYERS)},
        teachers={
            name: _each(
                lambda x, y, name=name: x @ kernels[name] + y @ kernels[name] * 0.5 + noise[name], student, columns()
            )
            for name in TEACHER_WIDTHS
        },
        near={name: _each(lambda x, y: x + 0.5 * y, student, columns()) for name in TEACHER_WIDTHS},
        kernels=kernels,
        ids=(
            np.arange(rows, dtype=np.int32) if queries else None,
            np.arange(rows, rows + count, dtype=np.int32).reshape(rows, -1),
        ),
        scores=np.float32(
            random.standard_normal((rows, 1 + negatives)) + np.eye(1, 1 + negatives)
        ),  # a positive scores higher
        labels=np.minimum(random.integers(0, CLASSES + 2, rows), CLASSES - 1).astype(np.int32),
    )


def change(
    inputs: Inputs, student: Callable, teacher: Callable, *, ids: Callable | None = None, scores: Callable | None = None
) -> Inputs:
    """The same with a function applied to the arrays of the student, of the teachers, to the ids or to the scores."""
    return inputs._replace(
        student=_each(student, inputs.student),
        at_layer={layer: _each(student, columns) for layer, columns in inputs.at_layer.items()},
        teachers={name: _each(teacher, columns) for name, columns in inputs.teachers.items()},
        near={name: _each(teacher, columns) for name, columns in inputs.near.items()},
        ids=inputs.ids if ids is None else (None if inputs.ids[0] is None else ids(inputs.ids[0]), ids(inputs.ids[1])),
        scores=inputs.scores if scores is None else scores(inputs.scores),
    )


def _each(function: Callable, *columns: PairEmbeddings) -> PairEmbeddings:
    queries = None if columns[0].queries is None else function(*(c.queries for c in columns))
    return PairEmbeddings(queries, function(*(c.documents for c in columns)))


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _equal_rows(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x[:1], x.shape).copy()


def _zero(row: int) -> Callable:
    def zeroed(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[row] = 0
        return x

    return zeroed


def _duplicates(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[5], x[6] = x[3], x[3]
    return x


def _one_excluded(scores: np.ndarray) -> np.ndarray:
    scores = scores.copy()
    scores[::3, 1] = -np.inf
    return scores


def _bfloat16(x: np.ndarray) -> Array:
    return jnp.asarray(x, jnp.bfloat16)


INPUTS: dict[str, Inputs] = {
    "random": plain(),
    "1 negative": plain(negatives=1),
    "7 negatives": plain(negatives=7),
    "plain texts": plain(queries=False),
    "batch of one": plain(rows=1),
    "batch of one, 7 negatives": plain(rows=1, negatives=7),
    "equal rows": change(plain(negatives=7), _equal_rows, _equal_rows),
    "equal rows of the student": change(plain(negatives=7), _equal_rows, _same),
    "zero vectors of the student": change(plain(negatives=1), _zero(2), _same),
    "zero vectors of the teacher": change(plain(negatives=1), _same, _zero(2)),
    "zero vectors of both": change(plain(negatives=1), _zero(9), _zero(9)),
    "duplicate texts": change(plain(negatives=1), _duplicates, _duplicates, ids=_duplicates),
    "one text throughout": change(plain(negatives=1), _same, _same, ids=np.zeros_like),
    "excluded candidates": change(plain(negatives=7), _same, _same, scores=_one_excluded),
    "bfloat16": change(plain(negatives=1), _bfloat16, _bfloat16)._replace(tolerance=1e-2),
}
