"""The shard_map changes where things are computed, never what."""

import re
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.losses import EmbedCosine, InfoNCE, LossConfig, ScoreZscore
from jdistill.parallel import make_mesh, make_objective, row_sharding
from jdistill.types import Columns, View
from tests.losses.cases import CASES, TEACHER
from tests.losses.inputs import INPUTS, ROWS, plain
from tests.losses.measure import difference, labels_for, ours
from tests.parallel.sharded import batch, sharded

BATCHES = ["random", "1 negative", "7 negatives", "plain texts", "zero vectors of both"]
NOW = jnp.float32(0)


class Probe(LossConfig):
    """Shows what a loss is given: a test's own term, linear in what it reads."""

    kind: Literal["probe"] = "probe"
    reads: Literal["rows", "order", "scores", "parameter", "progress"]

    def __call__(self, view: View) -> Float[Array, " b"]:
        side = view.student
        return {
            "rows": lambda: view.rows.astype(jnp.float32) * side.documents[:, 0],
            "order": lambda: jnp.abs(side.all_documents[view.rows] - side.documents).sum(axis=1),
            "scores": lambda: view.scores,
            "parameter": lambda: view.parameters["t"] * side.documents[:, 0],
            "progress": lambda: jnp.broadcast_to(view.progress, side.documents.shape[:1]),
        }[self.reads]()


@pytest.mark.parametrize(
    "devices", [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 8]
)
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parity
def test_sharded_equals_single_device(name: str, devices: int) -> None:
    single, split = ours(name), sharded(name, devices)
    assert split.keys() == single.keys() == set(labels_for(INPUTS[name]))
    for label, result in split.items():
        gap = difference(label, result, single[label])
        assert gap.value <= 1e-6, label
        assert gap.gradient <= 1e-5, label


def test_loss_is_the_weighted_sum_and_terms_are_unweighted() -> None:
    inputs = plain()
    objective = make_objective({"a": InfoNCE(weight=0.5), "b": EmbedCosine(teacher=TEACHER, weight=3.0)}, make_mesh())
    loss, terms = jax.jit(objective)(inputs.student, batch(inputs.teacher), {}, NOW)
    assert terms.keys() == {"a", "b"}
    assert float(loss) == pytest.approx(0.5 * float(terms["a"]) + 3 * float(terms["b"]), rel=1e-6)


def test_documents_of_the_batch_are_column_major_and_rows_are_global() -> None:
    n, k, d = 8, 2, 1
    documents = np.arange(n * (1 + k), dtype=np.float32).reshape(n, 1 + k, d)  # row i holds 3i, 3i + 1, 3i + 2
    seen = []

    class Look(LossConfig):
        kind: Literal["look"] = "look"

        def __call__(self, view: View) -> Float[Array, " b"]:
            jax.debug.callback(lambda *x: seen.append(x), view.rows, view.student.documents, view.student.all_documents)
            return view.student.documents[:, 0]

    objective = make_objective({"look": Look()}, make_mesh(jax.devices()[:4]))
    jax.block_until_ready(
        jax.jit(objective)({"student": Columns(None, documents)}, batch(plain(rows=n).teacher), {}, NOW)
    )
    jax.effects_barrier()
    assert len(seen) == 4
    for rows, own, everything in seen:
        assert everything[:, 0].tolist() == [3 * i + column for column in range(3) for i in range(n)]
        assert everything[rows].tolist() == own.tolist()
    assert sorted(row for rows, *_ in seen for row in rows.tolist()) == list(range(n))


@pytest.mark.parametrize("devices", [1, 4])
def test_learnable_parameters_get_the_gradient_of_the_whole_batch(devices: int) -> None:
    inputs = plain()
    objective = make_objective({"p": Probe(reads="parameter")}, make_mesh(jax.devices()[:devices]))

    def loss(parameters: dict) -> Array:
        return objective(inputs.student, batch(inputs.teacher), parameters, NOW)[0]

    gradient = jax.jit(jax.grad(loss))({"p": {"t": jnp.float32(2)}})
    assert float(gradient["p"]["t"]) == pytest.approx(inputs.student["student"].documents[:, 0, 0].mean(), rel=1e-5)


def test_progress_and_scores_reach_the_losses() -> None:
    inputs = plain()
    objective = make_objective({"p": Probe(reads="progress"), "s": Probe(reads="scores")}, make_mesh())
    parts = batch(inputs.teacher)._replace(scores=jnp.arange(ROWS, dtype=jnp.float32))
    _, terms = jax.jit(objective)(inputs.student, parts, {}, jnp.float32(0.25))
    assert float(terms["p"]) == 0.25
    assert float(terms["s"]) == (ROWS - 1) / 2


@pytest.mark.parametrize(
    ("term", "gathers", "scatters"),
    [
        (EmbedCosine(teacher=TEACHER), 0, 0),
        (InfoNCE(), 2, 2),  # documents, negatives
        (ScoreZscore(teacher=TEACHER), 4, 2),  # queries and documents, of student and teacher; no negatives
    ],
)
def test_only_what_a_term_reads_is_gathered(term: LossConfig, gathers: int, scatters: int) -> None:
    """The compiler drops the gathers nobody reads; the statistics of score_zscore need no collective of their own."""
    inputs, mesh = plain(negatives=2), make_mesh()
    objective = make_objective({"term": term}, mesh)
    gradient = jax.grad(lambda student: objective(student, batch(inputs.teacher), {}, NOW)[0])
    text = jax.jit(gradient).lower(jax.device_put(inputs.student, row_sharding(mesh))).compile().as_text()
    count = {op: len(re.findall(rf" {op}(?:-start)?\(", text)) for op in ("all-gather", "reduce-scatter", "all-to-all")}
    assert count == {"all-gather": gathers, "reduce-scatter": scatters, "all-to-all": 0}


@pytest.mark.parametrize("label", CASES)
def test_memory_is_a_few_score_matrices(label: str) -> None:
    """Nothing of size rows x rows x width, and no more than three float32 matrices of rows x rows."""
    rows, width = 1024, 64
    vectors = Columns(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, width), (rows, 1, width))))
    case = CASES[label]
    objective = make_objective({"term": case.loss}, make_mesh(jax.devices()[:1]))

    def loss(student: dict[str, Columns], teacher: Columns) -> Array:
        return objective(student, batch(teacher), {}, NOW)[0]

    lowered = jax.jit(jax.value_and_grad(loss)).lower({case.loss.student_space: vectors}, vectors)
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 3 * 4 * rows * rows + memory.argument_size_in_bytes


def test_rows_that_do_not_divide_are_refused() -> None:
    inputs = plain(rows=10)
    objective = make_objective({"a": InfoNCE()}, make_mesh())
    with pytest.raises(UserError, match=r"10 rows does not divide over 8 devices.*8 or 16"):
        objective(inputs.student, batch(inputs.teacher), {}, NOW)


def test_missing_vectors_are_named() -> None:
    inputs = plain()
    objective = make_objective({"a": EmbedCosine(teacher="other")}, make_mesh())
    with pytest.raises(ValueError, match="student vectors 'teacher:other' are missing; got: student, teacher:t"):
        objective(inputs.student, batch(inputs.teacher), {}, NOW)
    with pytest.raises(ValueError, match="name of the teacher"):
        make_objective({"a": EmbedCosine()}, make_mesh())


def test_plain_texts_cannot_be_contrasted() -> None:
    inputs = plain(queries=False)
    objective = make_objective({"a": InfoNCE()}, make_mesh())
    with pytest.raises(UserError, match=r"info_nce.*plain texts without queries"):
        jax.jit(objective)(inputs.student, batch(inputs.teacher), {}, NOW)
