"""Losses that read earlier layers of the student, in a whole step of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.losses import AdaptiveLayer, EmbedCosine, Hidden, InfoNCE, Matryoshka
from jdistill.parallel import make_mesh, replicated, row_sharding
from jdistill.student import StudentConfig, make_student
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step, needed_layers
from tests.tiny import tiny_bert_folder, tiny_static_folder
from tests.train.tiny_run import adamw, tiny_loader


@pytest.mark.exhaustive  # test_microbatches.py has such terms on one device and on four
def test_a_step_is_the_same_on_any_number_of_devices(tmp_path):
    folder = tiny_bert_folder(tmp_path, hidden=16, layers=2)
    student, params = make_student(StudentConfig(init=str(folder)), teacher_widths={"big": 6}, key=jax.random.key(0))
    terms = {
        "hidden": Hidden(layer=1, teacher="big"),
        "prefixes": Matryoshka(loss=EmbedCosine(), dims=(16, 4), teacher="big"),
        "both": AdaptiveLayer(loss=Matryoshka(loss=InfoNCE(), dims=(16, 8), dims_per_step=1)),
    }
    batch = tiny_loader(batch=8, columns=2).batch(1)
    optimizer, groups = adamw(10, warmup=0)
    results = []
    for devices in (1, 4):
        mesh = make_mesh(jax.devices()[:devices])
        step = make_train_step(student, terms, optimizer, groups, mesh, seed=0, total_steps=10)
        state = jax.device_put(make_state(params, terms, optimizer, groups), replicated(mesh))
        placed = jax.tree.map(lambda x: jax.device_put(jnp.asarray(x), row_sharding(mesh)), batch)  # noqa: B023
        state, metrics = jax.device_get(step(state, placed))
        results.append((state.opt_state.mean, metrics))
    (one_mean, one), (four_mean, four) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, four)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(one_mean))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), one_mean, four_mean)


def test_only_layers_that_are_read_are_computed(tmp_path):
    student, _ = make_student(
        StudentConfig(init=str(tiny_bert_folder(tmp_path))), teacher_widths={}, key=jax.random.key(0)
    )
    contrast, hidden = InfoNCE(), Hidden(layer=1, teacher="big")
    assert needed_layers(student, {"a": contrast}) == (3,)
    assert needed_layers(student, {"a": contrast, "b": hidden}) == (1, 3)
    assert needed_layers(student, {"a": AdaptiveLayer(loss=contrast), "b": hidden}) == (0, 1, 2, 3)
    with pytest.raises(UserError, match=r"losses.b: uses layer 3, but the student has earlier layers 0 to 2\."):
        needed_layers(student, {"a": contrast, "b": Hidden(layer=3, teacher="big")})


def test_a_static_student_has_no_earlier_layer(tmp_path):
    config = StudentConfig(init=str(tiny_static_folder(tmp_path)))
    student, _ = make_student(config, teacher_widths={}, key=jax.random.key(0))
    with pytest.raises(UserError, match=r"losses.a: uses layer 0, but the student has no earlier layers\."):
        needed_layers(student, {"a": Hidden(layer=0, teacher="big")})
