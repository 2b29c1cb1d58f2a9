"""The batches that every loss is tried on: the plain ones, and the awkward ones."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jdistill.types import Columns
from tests.losses.cases import TEACHER, Case

ROWS = 16
STUDENT_WIDTH, TEACHER_WIDTH = 12, 20  # they differ on every batch; only projected vectors have the teacher's width


class Inputs(NamedTuple):
    student: dict[str, Columns]
    """Space -> vectors: the student's own, and those projected to the teacher's width."""
    teacher: Columns
    tolerance: float = 1e-5

    @property
    def rows(self) -> int:
        return self.teacher.documents.shape[0]


def fits(case: Case, inputs: Inputs) -> bool:
    return not (case.needs_queries and inputs.teacher.queries is None)


def plain(*, rows: int = ROWS, negatives: int = 0, queries: bool = True) -> Inputs:
    """Random vectors of random length. The student is near the teacher in the teacher's space."""
    random = np.random.default_rng([rows, negatives, queries])

    def columns(width: int, near: Columns | None = None) -> Columns:
        def vectors(*shape: int) -> np.ndarray:
            length = random.uniform(0.5, 1.5, (*shape, 1))
            return (random.standard_normal((*shape, width)) / width**0.5 * length).astype(np.float32)

        made = Columns(vectors(rows) if queries else None, vectors(rows, 1 + negatives))
        return made if near is None else _both(lambda noise, x: 0.5 * noise + x, made, near)

    teacher = columns(TEACHER_WIDTH)
    return Inputs({"student": columns(STUDENT_WIDTH), f"teacher:{TEACHER}": columns(TEACHER_WIDTH, teacher)}, teacher)


def change(inputs: Inputs, student, teacher) -> Inputs:
    """The same with a function applied to the arrays of the student and of the teacher."""
    return inputs._replace(
        student={space: _both(student, columns) for space, columns in inputs.student.items()},
        teacher=_both(teacher, inputs.teacher),
    )


def _both(function, *columns: Columns) -> Columns:
    queries = None if columns[0].queries is None else function(*(c.queries for c in columns))
    return Columns(queries, function(*(c.documents for c in columns)))


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _equal_rows(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x[:1], x.shape).copy()


def _zero(row: int):
    def zeroed(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[row] = 0
        return x

    return zeroed


def _duplicates(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[5], x[6] = x[3], x[3]
    return x


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
    "duplicate texts": change(plain(negatives=1), _duplicates, _duplicates),
    "bfloat16": change(plain(negatives=1), _bfloat16, _bfloat16)._replace(tolerance=1e-2),
}
