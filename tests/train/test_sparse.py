"""Training students whose vectors have a number for each token: contrast and sparsity, packed and in pieces."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from jdistill.config import parse
from jdistill.losses import InfoNCE, LossConfig
from jdistill.losses.regularise.sparsity import Flops
from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.student import StudentConfig, make_student
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step
from tests.tiny import tiny_bert_folder
from tests.train.tiny_run import adamw, tiny_loader

TERMS: dict[str, LossConfig] = {
    "contrast": InfoNCE(temperature=1.0),
    "documents": Flops(weight=1e-2, warmup=0),
    "queries": Flops(weight=1e-2, warmup=0, texts="queries"),
}


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """`(pooling, packed, devices, microbatches) -> parameters, then state and metrics after one step`, on the host."""
    folder = tiny_bert_folder(tmp_path_factory.mktemp("student"), hidden=16, layers=1, masked_lm=True)

    @cache
    def step(pooling: str, packed: bool = False, devices: int = 1, microbatches: int = 1) -> Any:
        config = parse(StudentConfig, {"init": str(folder), "pooling": {"kind": pooling}}, where="student")
        student, params = make_student(config, teacher_widths={}, key=jax.random.key(0))
        assert student.sparse
        mesh = make_mesh(jax.devices()[:devices])
        optimizer, groups = adamw(10, peak_lr=1e-2, warmup=0, eps=1e-5)
        program = make_train_step(
            student, TERMS, optimizer, groups, mesh, seed=0, total_steps=10, microbatches=microbatches
        )
        batch = tiny_loader(batch=16, packing=32, pieces=devices * microbatches).batch(1)
        if not packed:
            batch = batch._replace(
                queries=batch.queries._replace(packed=None), documents=batch.documents._replace(packed=None)
            )
        before = jax.device_get(params)
        state = make_state(params, TERMS, optimizer, groups)
        state, rows = jax.device_put((state, batch), (state_sharding(state, mesh), row_sharding(mesh)))
        return before, *jax.device_get(program.lower(state, rows).compile()(state, rows))

    return step


@pytest.mark.parametrize("pooling", ["sparse_vocabulary", "splade"])
@pytest.mark.parametrize(("packed", "devices", "microbatches"), [(True, 1, 1), (False, 2, 2)])
def test_a_step_is_the_same_however_it_is_cut(stepped, pooling, packed, devices, microbatches):
    plain, other = stepped(pooling), stepped(pooling, packed, devices, microbatches)
    np.testing.assert_allclose(other[2].loss, plain[2].loss, rtol=1e-5)
    assert float(plain[2].terms["documents"]) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), other[1].params, plain[1].params)


@pytest.mark.parametrize("pooling", ["sparse_vocabulary", "splade"])
def test_every_parameter_of_the_pooling_learns(stepped, pooling):
    before, state, _ = stepped(pooling)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params["student"]["pooling"], before["pooling"])
    assert all(0 < x < 0.1 for x in jax.tree.leaves(moved)), moved
