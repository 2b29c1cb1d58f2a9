"""What a loss gives on a batch, what its reference gives, and how far apart they are."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses.blocks import SINGLE_DEVICE
from jdistill.types import Batch, LossInputs, PairEmbeddings, Projection, Side, TextIds, Tokens, Vectors
from tests.losses.cases import CASES, Case, Given, Texts
from tests.losses.inputs import INPUTS, LAYERS, Inputs, fits, scores_for

KEY = 7
"""Seed of the draws of losses that draw."""


class Result(NamedTuple):
    value: float
    gradient: list[np.ndarray]
    """With respect to each array that a loss may learn through, in the order of `leaves`."""


class Difference(NamedTuple):
    value: float
    gradient: float


def vectors(case: Case, inputs: Inputs) -> Vectors:
    """The student's side as training hands it over."""
    layers = case.loss.needs().layers
    wanted = range(LAYERS) if layers == "every" else layers
    maps = {
        t: Projection(inputs.kernels[t], np.zeros(inputs.kernels[t].shape[1], np.float32) + 0.1)
        for t in case.loss.teachers
    }
    projected = case.projection and case.loss.needs().projection
    return Vectors(inputs.student, {layer: inputs.at_layer[layer] for layer in wanted}, maps if projected else {})


def targets(case: Case, inputs: Inputs) -> dict[str, PairEmbeddings]:
    return {t: (inputs.teachers if case.projection else inputs.near)[t] for t in case.loss.teachers}


def batch(case: Case, inputs: Inputs) -> Batch:
    """What an objective reads of a Batch; the tokens are not among it."""
    none = Tokens(np.zeros((inputs.rows, 1, 1), np.int32), np.ones((inputs.rows, 1, 1), bool))
    labels = inputs.labels if case.labels else None
    return Batch(None, none, targets(case, inputs), scores_for(case, inputs), *inputs.ids, labels)


def side(columns: PairEmbeddings) -> Side:
    """A Side of one device, laid out by hand."""
    documents = jnp.asarray(columns.documents)
    queries = None if columns.queries is None else jnp.asarray(columns.queries)
    by_column = [documents[:, i] for i in range(documents.shape[1])]
    return Side(queries, documents[:, 0], documents[:, 1:], queries, jnp.concatenate(by_column))


def concatenated(sides: list[Any]) -> Any:
    """Vectors of several teachers side by side; None of none."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *sides) if sides else None


def view(case: Case, inputs: Inputs) -> LossInputs:
    """What a loss sees on one device."""
    given, parts = jax.tree.map(jnp.asarray, (vectors(case, inputs), batch(case, inputs)))
    return view_of(case, given, learned(case), parts)


def view_of(case: Case, given: Vectors, parameters: dict, parts: Batch) -> LossInputs:
    """The LossInputs of these arrays, laid out by hand."""
    queries, documents = parts.query_ids, parts.document_ids
    return LossInputs(
        student=side(given.columns),
        # By name, not in the order of the dict: going through jit sorts it.
        teacher=concatenated([side(parts.targets[t]) for t in case.loss.teachers]),
        projection=concatenated([given.projections[t] for t in case.loss.teachers if t in given.projections]),
        at_layer={layer: side(columns) for layer, columns in given.at_layer.items()},
        rows=jnp.arange(documents.shape[0]),
        ids=TextIds(queries, documents[:, 0], documents[:, 1:], queries, documents.T.reshape(-1)),
        scores=parts.scores,
        all_scores=parts.scores,
        parameters=parameters,
        progress=jnp.float32(case.progress),
        key=jax.random.fold_in(jax.random.key(KEY), 0),
        sweep=SINGLE_DEVICE,
        labels=parts.labels,
        all_labels=parts.labels,
    )


def learned(case: Case) -> dict[str, jax.Array]:
    """The term's learnable values; matrices random, since many of zeros pass no gradient on."""
    random = np.random.default_rng(3)
    return {
        name: jnp.asarray(random.standard_normal(x.shape), jnp.float32) if x.ndim > 1 else x
        for name, x in case.loss.parameters().items()
    }


def leaves(result: Any) -> list[np.ndarray]:
    """Gradients of (Vectors, parameters) as arrays in one order."""
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(result)]


OLDER_CODE = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
FAST_TO_COMPILE: Any = {"xla_backend_optimization_level": 0, **OLDER_CODE} if jax.default_backend() == "cpu" else {}
"""Speed is not at stake: a program runs a few times. Without optimisation the older of XLA's generators of CPU code
compiles these programs in half the time. Not by XLA_FLAGS: libtpu, which reads them too, ends a process at this one.
jax 0.11 has it no more."""


@functools.cache
def ours(label: str, name: str, *, optimized: bool = False) -> Result:
    """A loss on the batch of that name, on one device, without jdistill.parallel; optimised, as users compile it."""
    case, inputs = CASES[label], INPUTS[name]
    value, gradient = _one_device(label, optimized)(vectors(case, inputs), learned(case), batch(case, inputs))
    return Result(float(value), leaves(gradient))


@functools.lru_cache(maxsize=4)
def _one_device(label: str, optimized: bool) -> Callable:
    """Compiled once for all batches of one shape."""
    case = CASES[label]

    def mean(student: Vectors, parameters: dict, parts: Batch) -> jax.Array:
        return case.loss(view_of(case, student, parameters, parts)).mean()

    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1)), compiler_options={} if optimized else FAST_TO_COMPILE)


@functools.cache
def expected(label: str, name: str) -> Result:
    """What the reference gives in float64, by torch's autograd."""
    import torch

    case, inputs = CASES[label], INPUTS[name]

    def tensor(x: Any, *, leaf: bool = False):
        return torch.tensor(np.asarray(x, np.float64), requires_grad=leaf)

    def texts(columns: PairEmbeddings, leaf: bool) -> Texts:
        q, d = columns
        return Texts(None if q is None else tensor(q, leaf=leaf), tensor(d, leaf=leaf))

    student = vectors(case, inputs)
    parameters = {key: tensor(x, leaf=True) for key, x in learned(case).items()}
    columns, hidden = texts(student.columns, True), {k: texts(x, True) for k, x in student.at_layer.items()}
    maps = {t: tuple(tensor(x, leaf=True) for x in p) for t, p in student.projections.items()}
    teachers = [texts(x, False) for x in targets(case, inputs).values()]
    scores = scores_for(case, inputs)
    queries, documents = inputs.ids
    value = case.reference(
        Given(
            student=_unbound(columns),
            teacher=_unbound(Texts(*_cat(teachers))) if teachers else None,
            projection=tuple(_cat([maps[t] for t in case.loss.teachers])) if maps else None,
            at_layer={layer: _unbound(x) for layer, x in hidden.items()},
            ids=(None if queries is None else torch.tensor(queries), torch.tensor(documents)),
            scores=None if scores is None else tensor(scores),
            labels=torch.tensor(inputs.labels.astype(np.int64)) if case.labels else None,
            parameters=parameters,
            progress=case.progress,
        )
    )
    mine = jax.tree.leaves((columns, hidden, maps, parameters))
    gradient = (
        torch.autograd.grad(value, mine, allow_unused=True, materialize_grads=True)
        if value.requires_grad
        else [torch.zeros_like(x) for x in mine]
    )
    return Result(value.item(), [g.numpy() for g in gradient])


def difference(
    label: str, result: Result, other: Result, reference: Callable[[str, str], Result] = expected
) -> Difference:
    """Largest relative difference of the value, and of each vector of the gradient.

    Relative to the other result, or to what the loss gives on a random batch where that is larger: a value or a
    gradient that vanishes by cancellation has no digits of its own in float32. Each vector is measured by itself, so
    that a row with an enormous gradient hides none of the others.
    """
    typical = reference(label, _typical(label, len(other.gradient), reference))
    value = abs(result.value - other.value) / max(abs(other.value), abs(typical.value), 1e-30)
    gradient = 0.0
    for ours, theirs, usual in zip(result.gradient, other.gradient, typical.gradient, strict=True):
        if not theirs.size:
            continue
        lengths = _longest(usual)
        reached = lengths[lengths > 0]  # some losses pass by some columns
        size = np.maximum(_longest(theirs), np.median(reached) if reached.size else 0.0)
        error = (_longest(ours - theirs) / np.maximum(size, 1e-30)).max()
        gradient = float(np.maximum(gradient, error))  # keeps NaN, which Python's max may drop
    return Difference(value, gradient)


def _typical(label: str, gradients: int, reference: Callable[[str, str], Result]) -> str:
    """A random batch that the loss fits and whose gradients are of the same arrays."""
    names = ("1 negative", "random", "plain texts")
    same = [n for n in names if fits(CASES[label], INPUTS[n]) and len(reference(label, n).gradient) == gradients]
    return same[0]


def _longest(x: np.ndarray) -> np.ndarray:
    return np.abs(x).max(axis=-1) if x.ndim else np.abs(x)


def _cat(parts: list[Any]) -> list[Any]:
    import torch

    return [None if xs[0] is None else torch.cat(xs, dim=-1) for xs in zip(*parts, strict=True)]


def _unbound(texts: Texts) -> Texts:
    return Texts(texts.queries, list(texts.documents.unbind(1)))
