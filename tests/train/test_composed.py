"""Everything at once: prefixes, projection, hard negatives, filters, learned values, devices and microbatches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.checkpoint import load_student_params
from jdistill.losses import EmbedCosine, InfoNCE, LossConfig, Matryoshka, SpreadOut, TeacherFilter, TextFilter
from jdistill.losses.schedule import Ramp
from jdistill.losses.temperature import Learned
from jdistill.parallel import make_mesh, replicated, row_sharding
from jdistill.student import StudentConfig, make_student
from jdistill.train.state import TrainState, make_state
from jdistill.train.step import make_train_step
from tests.tiny import tiny_bert_folder
from tests.train.tiny_run import adamw, run, tiny_loader, tiny_student

FILTERED = InfoNCE(
    temperature=Learned(start=0.1),
    directions=("q2d", "q2q", "d2d"),
    hardness="hard",
    strength=5.0,
    false_negatives=(TextFilter(), TeacherFilter(margin=Ramp(start=0.2, stop=0.0))),
)
TERMS: dict[str, LossConfig] = {
    "align": Matryoshka(loss=EmbedCosine(), dims=(16, 8, 4), teacher="big"),
    "contrast": Matryoshka(loss=FILTERED, dims=(16, 8), dims_per_step=1, teacher="big", weight=Ramp(start=0.1, stop=1)),
    "spread": SpreadOut(weight=0.1),
}


def three_steps(folder: Any, *, devices: int, microbatches: int) -> tuple[TrainState, Any]:
    student, params = make_student(StudentConfig(init=str(folder)), teacher_widths={"big": 6}, key=jax.random.key(0))
    mesh = make_mesh(jax.devices()[:devices])
    optimizer, groups = adamw(10, warmup=0, peak_lr=1e-2)
    step = make_train_step(student, TERMS, optimizer, groups, mesh, seed=0, total_steps=10, microbatches=microbatches)
    state = jax.device_put(make_state(params, TERMS, optimizer, groups), replicated(mesh))
    metrics = None
    for i in range(3):
        batch = tiny_loader(batch=16, columns=3).batch(i)
        state, metrics = step(state, jax.tree.map(lambda x: jax.device_put(jnp.asarray(x), row_sharding(mesh)), batch))
    return state, metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"), hidden=16, layers=1)


@pytest.fixture(scope="module")
def four_devices(folder):
    return three_steps(folder, devices=4, microbatches=2)


@pytest.mark.slow
def test_neither_devices_nor_microbatches_change_the_result(folder, four_devices):
    whole, metrics = jax.device_get(three_steps(folder, devices=1, microbatches=1))
    split, split_metrics = jax.device_get(four_devices)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), metrics, split_metrics)
    assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(whole.opt_state.mean))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), whole.opt_state.mean, split.opt_state.mean
    )


@pytest.mark.slow
def test_the_projection_and_learned_values_train_and_stay_the_same_on_every_device(folder, four_devices):
    """A projection beside the model, as torch's data parallel training has it, drifts apart between ranks."""
    _, before = make_student(StudentConfig(init=str(folder)), teacher_widths={"big": 6}, key=jax.random.key(0))
    state, _ = four_devices
    kernel = state.params["student"]["projection"]["big"]["kernel"]
    learned = state.params["losses"]["contrast"]["log_temperature"]
    assert float(jnp.abs(kernel - before["projection"]["big"]["kernel"]).max()) > 1e-4
    assert float(learned) != pytest.approx(np.log(0.1), abs=1e-4)
    for values in (kernel, learned):
        copies = [np.asarray(shard.data) for shard in values.addressable_shards]
        assert len(copies) == 4
        assert all((copy == copies[0]).all() for copy in copies)


def test_the_projection_is_in_the_checkpoint(tmp_path):
    result = run(tmp_path / "run", tiny_student(tmp_path), terms={"align": EmbedCosine(teacher="big")}, devices=4)
    saved = load_student_params(tmp_path / "run")["projection"]["big"]
    np.testing.assert_array_equal(saved["kernel"], result.params["projection"]["big"]["kernel"])
    assert np.abs(saved["bias"]).max() > 0
