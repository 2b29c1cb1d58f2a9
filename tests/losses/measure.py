"""What a loss gives on a batch, what its reference gives, and how far apart they are."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses import LossConfig
from jdistill.types import Columns, Side, View
from tests.losses.cases import CASES, Case, Texts
from tests.losses.inputs import INPUTS, Inputs, fits


class Result(NamedTuple):
    value: float
    gradient: list[np.ndarray]
    """Of the student's queries, if any, and documents, in the space that the loss reads."""


class Difference(NamedTuple):
    value: float
    gradient: float


def side(columns: Columns) -> Side:
    """A Side of one device, laid out by hand."""
    documents = jnp.asarray(columns.documents)
    queries = None if columns.queries is None else jnp.asarray(columns.queries)
    by_column = [documents[:, i] for i in range(documents.shape[1])]
    return Side(queries, documents[:, 0], documents[:, 1:], queries, jnp.concatenate(by_column))


def view(loss: LossConfig, student: dict[str, Columns], teacher: Columns) -> View:
    """What a loss sees on one device."""
    return View(
        student=side(student[loss.student_space]),
        teacher=side(teacher) if loss.needs_teacher else None,
        rows=jnp.arange(teacher.documents.shape[0]),
        scores=None,
        parameters=loss.parameters(),
        progress=jnp.float32(0),
    )


def labels_for(inputs: Inputs) -> tuple[str, ...]:
    return tuple(label for label, case in CASES.items() if fits(case, inputs))


@functools.cache
def ours(batch: str) -> dict[str, Result]:
    """Every loss on the batch of that name, on one device, without jdistill.parallel."""
    labels = labels_for(INPUTS[batch])
    return results(_one_device(labels), labels, INPUTS[batch].student, INPUTS[batch].teacher)


@functools.cache
def _one_device(labels: tuple[str, ...]) -> Callable:
    def means(student: dict[str, Columns], teacher: Columns) -> dict[str, jax.Array]:
        losses = {label: CASES[label].loss for label in labels}
        return {label: loss(view(loss, student, teacher)).mean() for label, loss in losses.items()}

    return differentiated(means)


def differentiated(means: Callable, **compiler_options: int) -> Callable:
    """Value and gradient of any one entry of `means(student, teacher)`, compiled once for all entries."""

    def chosen(student: dict[str, Columns], teacher: Columns, choice: dict[str, jax.Array]):
        values = means(student, teacher)
        return jnp.stack([choice[label] * values[label] for label in values]).sum(), values

    return jax.jit(jax.value_and_grad(chosen, has_aux=True), compiler_options=compiler_options)


def results(function: Callable, labels: tuple[str, ...], student: dict[str, Columns], teacher: Columns):
    """Result of each loss under a `differentiated` function."""
    found = {}
    for label in labels:
        choice = {other: jnp.float32(other == label) for other in labels}
        (_, values), gradient = function(student, teacher, choice)
        arrays = [np.asarray(x, np.float64) for x in gradient[CASES[label].loss.student_space] if x is not None]
        found[label] = Result(float(values[label]), arrays)
    return found


def reference(case: Case, inputs: Inputs) -> Result:
    """What the reference gives in float64, by torch's autograd."""
    import torch

    student = [_tensor(x) for x in inputs.student[case.loss.student_space] if x is not None]
    teacher = [_tensor(x) for x in inputs.teacher if x is not None]
    for x in student:
        x.requires_grad_()
    value = case.reference(_texts(student), _texts(teacher))
    gradient = torch.autograd.grad(value, student, allow_unused=True, materialize_grads=True)
    return Result(value.item(), [g.numpy() for g in gradient])


@functools.cache
def expected(label: str, batch: str) -> Result:
    return reference(CASES[label], INPUTS[batch])


def difference(label: str, result: Result, other: Result) -> Difference:
    """Largest relative difference of the value, and of each vector of the gradient.

    Relative to the other result, or to what the loss gives on the random batch where that is larger: a value or a
    gradient that vanishes by cancellation has no digits of its own in float32. Each vector is measured by itself, so
    that a row with an enormous gradient hides none of the others.
    """
    typical = expected(label, "random" if CASES[label].needs_queries or len(other.gradient) == 2 else "plain texts")
    value = abs(result.value - other.value) / max(abs(other.value), abs(typical.value))
    gradient = 0.0
    for ours, theirs, usual in zip(result.gradient, other.gradient, typical.gradient, strict=True):
        size = np.maximum(np.abs(theirs).max(axis=-1), np.median(np.abs(usual).max(axis=-1)))
        error = (np.abs(ours - theirs).max(axis=-1) / size).max()
        gradient = float(np.maximum(gradient, error))  # keeps NaN, which Python's max may drop
    return Difference(value, gradient)


def _tensor(x):
    import torch

    return torch.tensor(np.asarray(x, np.float64))


def _texts(arrays: list) -> Texts:
    *queries, documents = arrays
    return Texts(queries[0] if queries else None, list(documents.unbind(1)))
