"""The global batch decides a run: neither the number of devices does, nor how parameters are split over them."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jdistill.losses import EmbedCosine, InfoNCE
from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.student import Student, StudentConfig, make_student
from jdistill.train.state import TrainState, make_state
from jdistill.train.step import make_train_step
from tests.tiny import VOCABULARY, tiny_bert_folder, tiny_static_folder
from tests.train.tiny_run import adamw, run, tiny_loader

STEPS = 20
TERMS = {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE(weight=0.5, temperature={"start": 0.1})}
WORDS = (*VOCABULARY, *(f"word{i}" for i in range(4160 - len(VOCABULARY))))
"""So many that the table, 16 wide, is large enough to be split."""


class Trained(NamedTuple):
    losses: np.ndarray
    state: TrainState
    """On the host."""
    parts: list[tuple[int, ...]]
    """Of the table and its two moments: shape of the part that a device holds."""
    moved: float
    """How far some parameter is from where it began."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A lookup of words, or one layer of attention, trained with dropout; each once."""
    students = {}
    for kind in ("static", "bert"):
        folder = Path(tmp_path_factory.mktemp(kind))
        if kind == "static":
            tiny_static_folder(folder, width=16, vocab=WORDS, normalize=True)
        else:
            tiny_bert_folder(folder, hidden=16, layers=1, vocab=WORDS)
        config = StudentConfig(init=str(folder), dropout=0.1)
        students[kind] = make_student(config, teacher_widths={"big": 6}, key=jax.random.key(0))
    return cache(lambda kind, devices, fsdp: train(students[kind], devices, fsdp))


def train(student: tuple[Student, Any], devices: int, fsdp: int) -> Trained:
    mesh = make_mesh(jax.devices()[:devices], fsdp=fsdp)
    # A larger eps than usual: without it, Adam makes a whole step of a gradient that is rounding and nothing else.
    optimizer, groups = adamw(STEPS, peak_lr=1e-3, warmup=0, eps=1e-5)
    step = make_train_step(student[0], TERMS, optimizer, groups, mesh, seed=0, total_steps=STEPS)
    state = make_state(student[1], TERMS, optimizer, groups)
    state, losses = jax.device_put(state, state_sharding(state, mesh)), []
    loader = tiny_loader(batch=16, columns=2, shapes=1)
    for i in range(STEPS):
        batch = jax.tree.map(lambda x: jax.device_put(x, row_sharding(mesh)), loader.batch(i))
        if i == 0:
            step = step.lower(state, batch).compile()
        state, metrics = step(state, batch)
        losses.append(metrics.loss)
    everything = jax.tree.leaves_with_path((state.params, state.opt_state))
    parts = [x.addressable_shards[0].data.shape for path, x in everything if "words" in jax.tree_util.keystr(path)]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), jax.device_get(state.params["student"]), student[1])
    return Trained(np.asarray(jax.device_get(losses)), jax.device_get(state), parts, max(jax.tree.leaves(moved)))


SPLITS = [("static", 2, 1), ("static", 8, 1), ("static", 8, 2), ("static", 8, 4), ("static", 8, 8), ("bert", 8, 4)]
MORE = [pytest.param("static", *split, marks=pytest.mark.exhaustive) for split in ((4, 1), (2, 2))]


@pytest.mark.parametrize(("kind", "devices", "fsdp"), [*SPLITS, *MORE])
def test_losses_and_parameters_are_those_of_one_device(trained: Any, kind: str, devices: int, fsdp: int) -> None:
    """Dropout included: what a text loses follows from its place in the batch."""
    one, many = trained(kind, 1, 1), trained(kind, devices, fsdp)
    np.testing.assert_allclose(many.losses, one.losses, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), many.state.params, one.state.params)
    assert one.moved > 1e-3


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_the_table_and_its_moments_are_split(trained: Any, fsdp: int) -> None:
    assert trained("static", 8, fsdp).parts == 3 * [(4160 // fsdp, 16)]


@pytest.mark.slow
def test_a_run_resumes_with_another_split(tmp_path: Path) -> None:
    folder = tiny_static_folder(tmp_path / "student", width=16, vocab=WORDS, normalize=True)
    student = make_student(
        StudentConfig(init=str(folder), dropout=0.1), teacher_widths={"big": 6}, key=jax.random.key(0)
    )
    whole = run(tmp_path / "whole", student, steps=6, save_every=3, evaluate_every=None, devices=1)
    run(tmp_path / "split", student, steps=6, save_every=3, evaluate_every=None, devices=8, fsdp=4)
    shutil.rmtree(tmp_path / "split/checkpoints/6")
    (tmp_path / "split/result.json").unlink()
    resumed = run(tmp_path / "split", student, steps=6, save_every=3, evaluate_every=None, devices=4, fsdp=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), resumed.params, whole.params)
