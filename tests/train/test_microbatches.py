"""A step in microbatches is the step of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.losses import EmbedCosine, InfoNCE
from jdistill.parallel import make_mesh, replicated, row_sharding
from jdistill.student import StudentConfig, make_student
from jdistill.train.config import AdamWConfig
from jdistill.train.optimizer import AdamW
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step
from tests.tiny import tiny_bert_folder
from tests.train.tiny_run import run, tiny_loader, tiny_student


@pytest.mark.parametrize("devices", [1, 4])
def test_equal_to_the_whole_batch(tmp_path, devices):
    folder = tiny_bert_folder(tmp_path, hidden=16, layers=2)
    student, params = make_student(StudentConfig(init=str(folder)), teacher_widths={"big": 6}, key=jax.random.key(0))
    terms = {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE(weight=0.5)}
    mesh, optimizer = make_mesh(jax.devices()[:devices]), AdamW(AdamWConfig(warmup=0), 10)
    batch = jax.tree.map(
        lambda x: jax.device_put(jnp.asarray(x), row_sharding(mesh)), tiny_loader(batch=16, columns=3).batch(1)
    )
    results = []
    for count in (1, 4):
        step = make_train_step(student, terms, optimizer, mesh, seed=0, total_steps=10, microbatches=count)
        results.append(
            jax.device_get(step(jax.device_put(make_state(params, terms, optimizer), replicated(mesh)), batch))
        )
    (whole, metrics), (pieces, piece_metrics) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), metrics, piece_metrics)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(whole.opt_state.mean))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), whole.opt_state.mean, pieces.opt_state.mean
    )


def test_a_run_in_microbatches_with_dropout_learns(tmp_path):
    result = run(tmp_path / "run", tiny_student(tmp_path), microbatches=4)
    assert result.step == 12


def test_pieces_that_do_not_divide_are_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"train\.microbatches: 3 pieces on 2 devices"):
        run(tmp_path / "run", tiny_student(tmp_path), microbatches=3)
