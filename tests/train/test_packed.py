"""Training on packed or folded rows: a step on such a batch is the step on the same batch padded, however it is cut."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jdistill.losses import EmbedCosine, InfoNCE, LossConfig
from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.student import StudentConfig, make_student
from jdistill.train.state import TrainState, make_state
from jdistill.train.step import make_train_step
from jdistill.types import Batch, Metrics
from tests.tiny import tiny_bert_folder
from tests.train.tiny_run import adamw, tiny_loader

ALIGN: dict[str, LossConfig] = {"align": EmbedCosine(teacher="big")}
TERMS = {"by row": ALIGN, "coupled": {**ALIGN, "contrast": InfoNCE(weight=0.5)}}
LAYOUTS: dict[str, dict[str, Any]] = {"packing": {"packing": 32}, "folding": {"folding": True}}


class Stepped(NamedTuple):
    state: TrainState
    metrics: Metrics


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One step: `(layout, terms, columns, devices, microbatches) -> what came of it`, on the host."""
    folder = tiny_bert_folder(Path(tmp_path_factory.mktemp("student")), hidden=16, layers=1)

    @cache
    def student_with(dropout: float) -> Any:
        config = StudentConfig(init=str(folder), dropout=dropout)
        return make_student(config, teacher_widths={"big": 6}, key=jax.random.key(0))

    @cache
    def step(
        layout: str,
        terms: str,
        columns: int,
        devices: int = 1,
        microbatches: int = 1,
        *,
        dropout: float = 0.0,
        padded: bool = False,
    ) -> Stepped:
        student, params = student_with(dropout)
        mesh = make_mesh(jax.devices()[:devices])
        # A larger eps than usual: without it, Adam makes a whole step of a gradient that is rounding and nothing else.
        optimizer, groups = adamw(10, peak_lr=1e-2, warmup=0, eps=1e-5)
        program = make_train_step(
            student, TERMS[terms], optimizer, groups, mesh, seed=0, total_steps=10, microbatches=microbatches
        )
        batch = batch_of(layout, columns, devices * microbatches)
        if padded:
            assert batch.queries is not None
            queries, documents = (side._replace(packed=None) for side in (batch.queries, batch.documents))
            batch = batch._replace(queries=queries, documents=documents)
        state = make_state(params, TERMS[terms], optimizer, groups)
        state, rows = jax.device_put((state, batch), (state_sharding(state, mesh), row_sharding(mesh)))
        return Stepped(*jax.device_get(program.lower(state, rows).compile()(state, rows)))

    return step


def batch_of(layout: str, columns: int, pieces: int) -> Batch:
    """The same rows in the same order, whatever the pieces."""
    batch = tiny_loader(batch=16, columns=columns, pieces=pieces, **LAYOUTS[layout]).batch(1)
    for side in (batch.queries, batch.documents):
        assert side is not None
        assert side.packed is not None
        assert side.packed.shape[0] % pieces == 0
    return batch


def assert_equal(found: Stepped, expected: Stepped) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found.metrics, expected.metrics)
    # After one step the first moment is the gradient, but for a factor.
    for a, b in zip(*((s.state.opt_state.mean, s.state.params) for s in (found, expected)), strict=True):
        largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(b))
        jax.tree.map(lambda x, y, most=largest: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * most), a, b)


PIECES = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]


@pytest.mark.parametrize(("devices", "microbatches"), PIECES)
def test_a_packed_step_is_the_padded_step(stepped: Any, devices: int, microbatches: int) -> None:
    """With hard negatives, and a loss that compares rows: in pieces, GradCache."""
    expected = stepped("packing", "coupled", 3, padded=True)
    assert_equal(stepped("packing", "coupled", 3, devices, microbatches), expected)


@pytest.mark.parametrize(("devices", "microbatches"), [(1, 2), (4, 2)])
def test_rows_that_need_no_other_are_done_with_piece_by_piece(stepped: Any, devices: int, microbatches: int) -> None:
    """Plain accumulation; in one piece a loss of single rows goes the way of the others."""
    expected = stepped("packing", "by row", 3, padded=True)
    assert_equal(stepped("packing", "by row", 3, devices, microbatches), expected)


def test_a_folded_step_is_the_padded_step(stepped: Any) -> None:
    assert_equal(stepped("folding", "coupled", 3, 4, 2), stepped("folding", "coupled", 3, padded=True))


def test_dropout_depends_on_pieces_alone_and_is_replayed(stepped: Any) -> None:
    """Two devices encode at once what one encodes in two microbatches, and encodes twice: the same is dropped."""
    one = stepped("packing", "coupled", 3, 2, 1, dropout=0.2)
    assert_equal(stepped("packing", "coupled", 3, 1, 2, dropout=0.2), one)
    without = stepped("packing", "coupled", 3, 2, 1)
    assert abs(float(one.metrics.terms["align"]) - float(without.metrics.terms["align"])) > 1e-3
