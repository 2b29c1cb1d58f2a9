"""`hidden` reads the layer it names, and teaches no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.losses import EmbedMSE, Hidden
from jdistill.losses.base import Needs
from jdistill.types import Vectors
from tests.losses.cases import TEACHER, Case
from tests.losses.inputs import INPUTS
from tests.losses.measure import batch, vectors, view, view_of

INPUT = INPUTS["1 negative"]


def case(loss) -> Case:
    return Case(loss, lambda given: None)


def test_it_asks_for_its_layer_and_a_way_to_the_teacher():
    assert Hidden(layer=4).needs()._replace(batch=False) == Needs(
        teacher=True, projection=True, layers=(4,), batch=False
    )
    with pytest.raises(ValidationError):
        Hidden(layer=-1)


def test_it_is_the_embed_loss_of_the_layers_vectors():
    ours = Hidden(layer=2, distance="mse", teacher=TEACHER)
    there = view(case(ours), INPUT)
    moved = there._replace(student=there.at_layer[2])
    np.testing.assert_array_equal(ours(there), EmbedMSE(teacher=TEACHER)(moved))
    assert not np.allclose(ours(there), EmbedMSE(teacher=TEACHER)(there))


def test_hand_computed():
    there = view(case(Hidden(layer=1, teacher=TEACHER)), INPUTS["batch of one"])
    side = there.student

    def put(x, y):
        return side._replace(queries=jnp.array([x]), documents=jnp.array([y]), negatives=jnp.zeros((1, 0, 2)))

    there = there._replace(
        student=put([9.0, 9.0], [9.0, 9.0]),
        at_layer={1: put([3.0, 0.0], [1.0, 0.0])},
        teacher=put([0.0, 4.0], [2.0, 0.0]),
        projection=None,
    )
    for distance, expected in {"cosine": (1 + 0) / 2, "l2": (5 + 1) / 2, "mse": (12.5 + 0.5) / 2}.items():
        np.testing.assert_allclose(Hidden.model_validate({"layer": 1, "distance": distance})(there), [expected])


def test_only_the_layer_and_the_projection_learn():
    loss = Hidden(layer=1, teacher=TEACHER)
    given = vectors(case(loss), INPUT)._replace(at_layer=INPUT.at_layer)

    def mean(student: Vectors) -> jax.Array:
        return loss(view_of(case(loss), student, {}, batch(case(loss), INPUT))).mean()

    gradient = jax.jit(jax.grad(mean))(jax.tree.map(jnp.asarray, given))
    moved = jax.tree.map(lambda x: bool(jnp.any(x != 0)), gradient)
    assert not any(jax.tree.leaves((moved.columns, moved.at_layer[0], moved.at_layer[2])))
    assert all(jax.tree.leaves((moved.at_layer[1], moved.projections)))


def test_a_layer_that_the_student_does_not_have_is_refused():
    there = view(case(Hidden(layer=1, teacher=TEACHER)), INPUT)
    with pytest.raises(UserError, match="hidden: layer is 5, but the student has no such earlier layer"):
        Hidden(layer=5)(there)
