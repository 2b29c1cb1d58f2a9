from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.losses import InfoNCE, TeacherInfoNCE, teacher_info_nce
from tests.losses.cases import TEACHER, Case
from tests.losses.inputs import INPUTS, Inputs, plain
from tests.losses.measure import view


def value_of(loss, inputs: Inputs, projection: bool = True) -> float:
    return float(loss(view(Case(loss, lambda _: None, projection=projection), inputs)).mean())


def test_by_hand() -> None:
    """Cosines 1 and 0 at temperature 1/2, whatever the lengths."""
    values = teacher_info_nce(jnp.array([[2.0, 0.0]] * 2), 3 * jnp.eye(2), jnp.array([0, 1]), temperature=0.5)
    np.testing.assert_allclose(values, [np.log(1 + np.exp(-2)), np.log(1 + np.exp(-2)) + 2], rtol=1e-6)


compiled = jax.jit(partial(teacher_info_nce, temperature=0.3))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_teachers_vectors_changes_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    student, teacher = (jnp.float32(random.standard_normal((n, 5))) for n in (4, 9))
    order, positives = random.permutation(9), random.permutation(9)[:4]
    straight = compiled(student, teacher, positives)
    moved = compiled(student, teacher[order], np.argsort(order)[positives])
    np.testing.assert_allclose(moved, straight, rtol=1e-5, atol=1e-6)


def test_plain_texts_have_documents_only() -> None:
    inputs = plain(queries=False)
    default, explicit = TeacherInfoNCE(teacher=TEACHER), TeacherInfoNCE(teacher=TEACHER, directions=("d2d",))
    assert value_of(default, inputs) == value_of(explicit, inputs)
    with pytest.raises(UserError, match="directions q2d, but these rows are plain texts"):
        value_of(TeacherInfoNCE(teacher=TEACHER, directions=("q2d",)), inputs)


def test_each_direction_is_another_loss_and_they_are_averaged() -> None:
    inputs = INPUTS["1 negative"]
    values = {
        d: value_of(TeacherInfoNCE(teacher=TEACHER, directions=(d,)), inputs) for d in ("q2q", "d2d", "q2d", "d2q")
    }
    assert len({round(x, 3) for x in values.values()}) == 4
    both = value_of(TeacherInfoNCE(teacher=TEACHER), inputs)
    assert both == pytest.approx((values["q2q"] + values["d2d"]) / 2, rel=1e-6)


@pytest.mark.parity
def test_towers_is_a_sum_of_two_terms() -> None:
    """The mean of InfoNCE from q to d of the student, and from the student's q, d and q to the teacher's q, d and d."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    inputs = INPUTS["random"]
    sides = inputs.student, inputs.near[TEACHER]
    (q, d), (tq, td) = (
        [normalize(torch.tensor(np.float64(x)), dim=-1) for x in (s.queries, s.documents[:, 0])] for s in sides
    )
    pairs = [(q, d), (q, tq), (d, td), (q, td)]
    expected = np.mean([cross_entropy(a @ b.T / 0.05, torch.arange(len(a))).item() for a, b in pairs])
    taught = TeacherInfoNCE(teacher=TEACHER, directions=("q2q", "d2d", "q2d"), temperature=0.05)
    ours = value_of(InfoNCE(temperature=0.05), inputs) / 4 + value_of(taught, inputs, projection=False) * 3 / 4
    assert ours == pytest.approx(expected, rel=1e-5)


def test_it_needs_a_way_into_the_teachers_space() -> None:
    needs = TeacherInfoNCE().needs()
    assert (needs.teacher, needs.projection) == (True, True)
    seen = view(Case(TeacherInfoNCE(teacher=TEACHER), lambda _: None), plain())
    with pytest.raises(ValueError, match="the student's have 12 and the teacher's 20"):
        TeacherInfoNCE(teacher=TEACHER)(seen._replace(projection=None))


@pytest.mark.parametrize("directions", [(), ("q2q", "q2q"), ("q2x",)])
def test_directions_that_make_no_loss_are_refused(directions: tuple) -> None:
    with pytest.raises(ValidationError, match="directions"):
        TeacherInfoNCE(directions=directions)
