"""The shard_map changes where things are computed, never what."""

import re
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.losses import EmbedCosine, EmbedMSE, InfoNCE, LabelSoftmax, LossConfig, ScoreZscore
from jdistill.losses.schedule import Ramp
from jdistill.parallel import make_objective, row_sharding
from jdistill.types import Batch, LossInputs, PairEmbeddings, Projection, Vectors
from tests.losses.cases import CASES, FIRST_OF_KIND, SECOND, TEACHER, Case
from tests.losses.inputs import INPUTS, LAYERS, ROWS, WIDTH, Inputs, fits, plain
from tests.losses.measure import batch, difference, ours, vectors
from tests.parallel.sharded import mesh_of, sharded

EVERYTHING = Case(EmbedCosine(teacher=(TEACHER, SECOND)), lambda _: None, scores="documents")
"""Has the batch hold all that it can."""


def evaluate(terms: dict[str, LossConfig], inputs: Inputs, mesh: Mesh, parameters: dict | None = None, **parts: Array):
    """Loss and terms on a batch, compiled; `parts` replace those of the Batch."""
    progress, key = jnp.float32(0.25), jax.random.key(0)
    rows = batch(EVERYTHING, inputs)._replace(**parts)
    return jax.jit(make_objective(terms, mesh))(vectors(EVERYTHING, inputs), rows, parameters or {}, progress, key)


class Probe(LossConfig):
    """Shows what a loss is given: a test's own term, linear in what it reads."""

    kind: Literal["probe"] = "probe"
    reads: Literal["rows", "order", "ids", "scores", "parameter", "progress", "draw"]

    def __call__(self, view: LossInputs) -> Float[Array, " b"]:
        side, ids = view.student, view.ids
        return {
            "rows": lambda: view.rows.astype(jnp.float32) * side.documents[:, 0],
            "order": lambda: jnp.abs(side.all_documents[view.rows] - side.documents).sum(axis=1),
            "ids": lambda: jnp.abs(ids.all_documents[view.rows] - ids.documents).astype(jnp.float32),
            "scores": lambda: view.scores[:, -1],
            "parameter": lambda: view.parameters["t"] * side.documents[:, 0],
            "progress": lambda: jnp.broadcast_to(view.progress, side.documents.shape[:1]),
            "draw": lambda: jnp.broadcast_to(jax.random.uniform(view.key), side.documents.shape[:1]),
        }[self.reads]()


SHARDED = [
    pytest.param(label, name, devices, marks=[pytest.mark.exhaustive] * (label not in FIRST_OF_KIND or devices < 8))
    for label, case in CASES.items()
    for name in ("1 negative", "plain texts")
    for devices in (2, 4, 8)
    if fits(case, INPUTS[name]) and (label in FIRST_OF_KIND or (name == "1 negative" and devices == 8))
]
"""Every kind on eight devices; `make exhaustive` has fewer devices and every option, `make parity` every batch too."""


@pytest.mark.parametrize(("label", "name", "devices"), SHARDED)
@pytest.mark.parity
def test_sharded_equals_single_device(label: str, name: str, devices: int) -> None:
    gap = difference(label, sharded(label, name, devices), ours(label, name))
    assert gap.value <= 1e-5
    assert gap.gradient <= 1e-5


def test_loss_is_the_weighted_sum_and_terms_are_unweighted() -> None:
    terms = {"a": InfoNCE(weight=0.5), "b": EmbedCosine(teacher=TEACHER, weight=Ramp(start=0, stop=4, end=0.5))}
    loss, parts = evaluate(terms, plain(), mesh_of(8))
    assert parts.keys() == {"a", "b"}
    assert float(loss) == pytest.approx(0.5 * float(parts["a"]) + 2 * float(parts["b"]), rel=1e-6)


def test_documents_of_the_batch_are_column_major_and_rows_are_global() -> None:
    n, k, d = 8, 2, 1
    documents = np.arange(n * (1 + k), dtype=np.float32).reshape(n, 1 + k, d)  # row i holds 3i, 3i + 1, 3i + 2
    seen = []

    class Look(LossConfig):
        kind: Literal["look"] = "look"

        def __call__(self, view: LossInputs) -> Float[Array, " b"]:
            side, ids = view.student, view.ids
            jax.debug.callback(
                lambda *x: seen.append(x),
                view.rows,
                side.documents,
                side.all_documents,
                ids.negatives,
                ids.all_documents,
            )
            return side.documents[:, 0]

    rows = Batch(None, batch(EVERYTHING, plain(rows=n)).documents, {}, None, None, documents[..., 0].astype(np.int32))
    objective = make_objective({"look": Look()}, mesh_of(4))
    given = Vectors(PairEmbeddings(None, documents), {}, {})
    jax.block_until_ready(jax.jit(objective)(given, rows, {}, jnp.float32(0), jax.random.key(0)))
    jax.effects_barrier()
    assert len(seen) == 4
    for own, positives, everything, negatives, ids in seen:
        assert everything[:, 0].tolist() == ids.tolist() == [3 * i + column for column in range(3) for i in range(n)]
        assert everything[own].tolist() == positives.tolist()
        assert negatives.tolist() == [[3 * i + 1, 3 * i + 2] for i in own]
    assert sorted(row for own, *_ in seen for row in own.tolist()) == list(range(n))


@pytest.mark.parametrize("devices", [1, 4])
def test_learnable_values_get_the_gradient_of_the_whole_batch(devices: int) -> None:
    inputs = plain()

    def loss(parameters: dict) -> Array:
        return evaluate({"p": Probe(reads="parameter")}, inputs, mesh_of(devices), parameters)[0]

    gradient = jax.grad(loss)({"p": {"t": jnp.float32(2)}})
    assert float(gradient["p"]["t"]) == pytest.approx(inputs.student.documents[:, 0, 0].mean(), rel=1e-5)


def test_progress_scores_and_ids_reach_the_losses() -> None:
    terms = {reads: Probe(reads=reads) for reads in ("progress", "scores", "ids", "order")}
    scores = jnp.arange(2.0 * ROWS).reshape(ROWS, 2)
    _, parts = evaluate(terms, plain(), mesh_of(8), scores=scores)
    assert {name: float(x) for name, x in parts.items()} == {"progress": 0.25, "scores": ROWS, "ids": 0, "order": 0}


def test_terms_draw_apart_and_devices_alike() -> None:
    terms = {"a": Probe(reads="draw"), "b": Probe(reads="draw")}
    one, eight = (evaluate(terms, plain(), mesh_of(devices))[1] for devices in (1, 8))
    assert one["a"] != one["b"]
    assert jax.tree.map(float, one) == pytest.approx(jax.tree.map(float, eight))


def test_a_teacher_of_the_students_width_needs_no_map_beside_one_that_does() -> None:
    """Of two teachers side by side only one has a projection: the other's is the identity."""
    inputs = plain()
    teachers = {TEACHER: inputs.teachers[TEACHER], SECOND: inputs.student}
    rows = batch(EVERYTHING, inputs)._replace(targets=teachers)
    kernel = inputs.kernels[TEACHER]
    given = Vectors(inputs.student, {}, {TEACHER: Projection(kernel, np.zeros(kernel.shape[1], np.float32))})
    objective = make_objective({"e": EmbedMSE(teacher=(TEACHER, SECOND))}, mesh_of(2))
    loss, _ = jax.jit(objective)(given, rows, {}, jnp.float32(0), jax.random.key(0))
    columns = [(x @ kernel - t) for x, t in zip(inputs.student, teachers[TEACHER], strict=True)]
    expected = np.mean([np.square(x).sum(axis=-1).mean() / (kernel.shape[1] + WIDTH) for x in columns])
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("term", "gathers", "scatters"),
    [
        (EmbedCosine(teacher=TEACHER), 0, 0),
        (InfoNCE(), 2, 1),  # documents and hard negatives together, forward and backward
        (ScoreZscore(teacher=TEACHER), 4, 2),  # queries and documents, of student and teacher; no negatives
    ],
)
def test_only_what_a_term_reads_is_gathered(term: LossConfig, gathers: int, scatters: int) -> None:
    """The compiler drops the gathers nobody reads; the statistics of score_zscore need no collective of their own."""
    inputs, mesh, case = plain(negatives=2), mesh_of(8), Case(term, lambda _: None)
    objective = make_objective({"term": term}, mesh)
    given = vectors(case, inputs)

    def loss(columns: PairEmbeddings, rows: Batch) -> Array:
        return objective(given._replace(columns=columns), rows, {}, jnp.float32(0), jax.random.key(0))[0]

    split = jax.device_put((given.columns, batch(case, inputs)), row_sharding(mesh))
    text = jax.jit(jax.grad(loss)).lower(*split).compile().as_text()
    count = {op: len(re.findall(rf" {op}(?:-start)?\(", text)) for op in ("all-gather", "reduce-scatter", "all-to-all")}
    assert count == {"all-gather": gathers, "reduce-scatter": scatters, "all-to-all": 0}


@pytest.mark.parametrize(
    "label", [pytest.param(x, marks=[pytest.mark.exhaustive] * (x not in FIRST_OF_KIND)) for x in CASES]
)
def test_memory_is_a_few_score_matrices(label: str) -> None:
    """Nothing of size rows x rows x width, and no more than three float32 matrices of rows x candidates."""
    rows, width, case = 2048, 384, CASES[label]
    if isinstance(case.loss, LabelSoftmax):  # its classifier is made for one width
        case = case._replace(loss=case.loss.model_copy(update={"width": width}))
    negatives = int(case.negatives)
    shapes = jax.eval_shape(lambda: at_size(case, rows, width, negatives))
    objective = make_objective({"term": case.loss}, mesh_of(1))

    def loss(given: Vectors, parameters: dict, parts: Batch) -> Array:
        return objective(given, parts, {"term": parameters}, jnp.float32(case.progress), jax.random.key(0))[0]

    lowered = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*shapes)
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 3 * 4 * rows * rows * (1 + negatives)


def at_size(case: Case, rows: int, width: int, negatives: int) -> tuple[Vectors, dict, Batch]:
    """The inputs of a case in the size of real training; teachers side by side have the student's width."""
    columns = PairEmbeddings(jnp.zeros((rows, width)), jnp.zeros((rows, 1 + negatives, width)))
    layers = case.loss.needs().layers
    hidden = dict.fromkeys(range(LAYERS) if layers == "every" else layers, columns)
    share = width // max(len(case.loss.teachers), 1)
    projected = case.projection and case.loss.needs().projection
    narrow = Projection(jnp.zeros((width, share)), jnp.zeros(share))
    scores = {None: None, "pair": 1, "binary": 1, "documents": 1 + negatives, "margins": negatives}[case.scores]
    parts = batch(EVERYTHING, plain(rows=rows, negatives=negatives))._replace(
        targets=dict.fromkeys(case.loss.teachers, jax.tree.map(lambda x: x[..., :share], columns)),
        scores=None if scores is None else jnp.zeros((rows, scores)),
        labels=jnp.zeros(rows, jnp.int32) if case.labels else None,
    )
    return (
        Vectors(columns, hidden, dict.fromkeys(case.loss.teachers, narrow) if projected else {}),
        case.loss.parameters(),
        parts,
    )


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"10 rows does not divide over 8 devices.*8 or 16"):
        evaluate({"a": InfoNCE()}, plain(rows=10), mesh_of(8))


def test_missing_vectors_are_named() -> None:
    with pytest.raises(ValueError, match="teacher 'other' are missing; got: t, u"):
        evaluate({"a": EmbedCosine(teacher="other")}, plain(), mesh_of(8))
    with pytest.raises(ValueError, match="name of the teacher"):
        make_objective({"a": EmbedCosine()}, mesh_of(8))


def test_plain_texts_cannot_be_contrasted() -> None:
    with pytest.raises(UserError, match=r"info_nce.*plain texts without queries"):
        evaluate({"a": InfoNCE()}, plain(queries=False), mesh_of(8))
