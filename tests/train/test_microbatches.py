"""A step in microbatches is the step of the whole batch, on whatever platform these tests run."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.losses import AdaptiveLayer, EmbedCosine, EmbedMSE, Hidden, InfoNCE, LossConfig, Matryoshka, ScoreZscore
from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.student import StudentConfig, make_student
from jdistill.train.state import TrainState, make_state
from jdistill.train.step import make_train_step
from jdistill.types import Batch, Metrics, PairEmbeddings, Tokens
from tests.parallel.sharded import loops
from tests.tiny import VOCABULARY, tiny_bert_folder
from tests.train.tiny_run import adamw, run, tiny_student

ROWS, WIDTH, TEACHERS = 16, 16, {"big": 6, "other": 10}
WORDS = (*VOCABULARY, *(f"word{i}" for i in range(4160 - len(VOCABULARY))))
"""So many that the table is large enough to be split."""

BY_ROW: dict[str, LossConfig] = {
    "align": EmbedCosine(teacher=("big", "other")),
    "early": Hidden(teacher="big", layer=1, weight=0.5),
    "nested": Matryoshka(loss=EmbedMSE(), teacher="other", dims=(4, 8, 16), dims_per_step=2),
    "layers": AdaptiveLayer(loss=EmbedCosine(), teacher="big", layers_per_step=1),
}
COUPLED: dict[str, LossConfig] = {
    **BY_ROW,
    "contrast": InfoNCE(temperature={"start": 0.1}),
    "spread": ScoreZscore(teacher="big"),
}
SPLITS = [split for split in ((1, 1), (4, 2)) if split[0] <= len(jax.devices())]
"""Devices, and over how many of them parameters are split; the last tells what the others would."""
MARKED = [pytest.param(*split, marks=[pytest.mark.exhaustive] * (split != SPLITS[-1])) for split in SPLITS]


class Stepped(NamedTuple):
    program: str
    """As compiled."""
    state: TrainState
    metrics: Metrics


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One step with dropout: `(terms, devices, fsdp, microbatches) -> what came of it`, on the host."""
    folder = tiny_bert_folder(Path(tmp_path_factory.mktemp("student")), hidden=WIDTH, layers=2, vocab=WORDS)
    config = StudentConfig(init=str(folder), dropout=0.2)
    student, params = make_student(config, teacher_widths=TEACHERS, key=jax.random.key(0))

    @cache
    def step(coupled: bool, devices: int, fsdp: int, microbatches: int) -> Stepped:
        terms = COUPLED if coupled else BY_ROW
        mesh = make_mesh(jax.devices()[:devices], fsdp=fsdp)
        optimizer, groups = adamw(10, warmup=0)
        program = make_train_step(
            student, terms, optimizer, groups, mesh, seed=0, total_steps=10, microbatches=microbatches
        )
        state = make_state(params, terms, optimizer, groups)
        state, rows = jax.device_put((state, batch()), (state_sharding(state, mesh), row_sharding(mesh)))
        compiled = program.lower(state, rows).compile()
        return Stepped(compiled.as_text(), *jax.device_get(compiled(state, rows)))

    return step


def batch() -> Batch:
    random = np.random.default_rng(1)

    def tokens(*shape: int) -> Tokens:
        ids = random.integers(5, 60, (*shape, 8)).astype(np.int32)
        return Tokens(ids, np.arange(8) < random.integers(2, 9, (*shape, 1)))

    def columns(width: int) -> PairEmbeddings:
        return PairEmbeddings(*(random.normal(size=(*s, width)).astype(np.float32) for s in ((ROWS,), (ROWS, 2))))

    ids = np.arange(3 * ROWS, dtype=np.int32)
    targets = {name: columns(width) for name, width in TEACHERS.items()}
    return Batch(tokens(ROWS), tokens(ROWS, 2), targets, None, ids[:ROWS], ids[ROWS:].reshape(ROWS, 2))


@pytest.mark.parametrize(("devices", "fsdp"), MARKED)
@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "by row"])
def test_equal_to_the_whole_batch(stepped: Any, coupled: bool, devices: int, fsdp: int) -> None:
    """Hidden layers, projections to two teachers, a learned temperature, drawn prefixes and layers, and dropout."""
    whole, pieces = stepped(coupled, 1, 1, 1), stepped(coupled, devices, fsdp, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), pieces.metrics, whole.metrics)
    # After one step the first moment is the gradient, but for a factor.
    expected, found = whole.state.opt_state.mean, pieces.state.opt_state.mean
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), found, expected)


@pytest.mark.skipif(len(jax.devices()) < 4, reason="several devices are needed")
@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "by row"])
def test_no_piece_waits_for_another_device(stepped: Any, coupled: bool) -> None:
    text = stepped(coupled, *SPLITS[-1], 2).program
    collective = r"all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
    assert re.search(collective, text)
    assert " dot(" in loops(text)
    assert not re.search(collective, loops(text))


def test_only_rows_that_need_no_other_are_judged_in_pieces() -> None:
    assert all(term.needs().batch == (name in ("contrast", "spread")) for name, term in COUPLED.items())


def test_a_run_in_microbatches_with_dropout_learns(tmp_path: Path) -> None:
    result = run(tmp_path / "run", tiny_student(tmp_path), microbatches=4)
    assert result.step == 12


def test_pieces_that_do_not_divide_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.microbatches: 3 microbatches on 2 devices"):
        run(tmp_path / "run", tiny_student(tmp_path), microbatches=3)
