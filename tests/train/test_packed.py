"""Training on packed rows: the step of a packed batch is the step of the same batch padded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import EmbedCosine, InfoNCE
from jdistill.parallel import make_mesh, replicated, row_sharding
from jdistill.student import StudentConfig, make_student
from jdistill.train.config import AdamWConfig
from jdistill.train.optimizer import AdamW
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step
from tests.tiny import tiny_bert_folder
from tests.train.tiny_run import tiny_loader


@pytest.mark.parametrize("columns", [1, 3])
def test_a_packed_step_equals_the_padded_step(tmp_path, columns):
    folder = tiny_bert_folder(tmp_path, hidden=16, layers=2)
    student, params = make_student(StudentConfig(init=str(folder)), teacher_widths={"big": 6}, key=jax.random.key(0))
    terms = {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE(weight=0.5)}
    batch = tiny_loader(batch=8, packing=32, columns=columns).batch(1)
    assert batch.documents.packed is not None
    padded = batch._replace(
        queries=batch.queries._replace(packed=None), documents=batch.documents._replace(packed=None)
    )
    mesh, optimizer = make_mesh(jax.devices()[:1]), AdamW(AdamWConfig(warmup=0), 10)
    results = []
    for this in (batch, padded):
        step = make_train_step(student, terms, optimizer, mesh, seed=0, total_steps=10)
        state = jax.device_put(make_state(params, terms, optimizer), replicated(mesh))
        placed = jax.tree.map(lambda x: jax.device_put(jnp.asarray(x), row_sharding(mesh)), this)
        results.append(jax.device_get(step(state, placed)))
    (packed_state, packed_metrics), (padded_state, padded_metrics) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), packed_metrics, padded_metrics)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(padded_state.opt_state.mean))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        packed_state.opt_state.mean,
        padded_state.opt_state.mean,
    )
