"""`matryoshka`: which prefixes count, how much, and what the loss inside is shown of the teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError, parse
from jdistill.losses import EmbedCosine, EmbedMSE, InfoNCE, LossConfig, Matryoshka, ScoreZscore, TeacherFilter
from jdistill.losses.base import Needs
from jdistill.losses.nested.base import draw
from jdistill.losses.temperature import Learned
from jdistill.recipe import Recipe
from jdistill.types import LossInputs, Side
from tests.losses.cases import TEACHER, Case
from tests.losses.inputs import INPUTS, WIDTH
from tests.losses.measure import batch, vectors, view, view_of

INPUT = INPUTS["1 negative"]


def seen(loss: LossConfig, *, projection: bool = True) -> LossInputs:
    return view(Case(loss, lambda given: None, projection=projection), INPUT)


def mse(dims, **options) -> Matryoshka:
    return Matryoshka(loss=EmbedMSE(), dims=dims, teacher=TEACHER, **options)


def one_text(student: list[float], teacher: list[float]) -> LossInputs:
    def side(x: list[float]) -> Side:
        row = jnp.array([x])
        return Side(None, row, row[:, None][:, :0], None, row)

    there = view(Case(EmbedCosine(teacher=TEACHER), lambda given: None), INPUTS["batch of one"])
    return there._replace(student=side(student), teacher=side(teacher), projection=None)


def test_hand_computed():
    there = one_text([3.0, 4.0, 0.0], [0.0, 2.0, 1.5])
    # Student: (0.6, 0.8, 0) and (0.6, 0.8). Teacher: (0, 0.8, 0.6) and (0, 1), or as it is.
    whole, first_two = (0.6**2 + 0.6**2) / 3, (0.6**2 + 0.2**2) / 2
    np.testing.assert_allclose(mse((3, 2))(there), [whole + first_two], rtol=1e-6)
    np.testing.assert_allclose(mse((2, 3), weights=(0.5, 2))(there), [2 * whole + 0.5 * first_two], rtol=1e-6)
    whole, first_two = (0.6**2 + 1.2**2 + 1.5**2) / 3, (0.6**2 + 1.2**2) / 2
    np.testing.assert_allclose(mse((3, 2), renormalise_teacher=False)(there), [whole + first_two], rtol=1e-6)


def test_the_order_of_dims_does_not_matter_and_weights_go_with_them():
    one, other = mse((3, 12, 7), weights=(1, 2, 3)), mse((12, 7, 3), weights=(2, 3, 1))
    assert one.prefixes == other.prefixes == ((12, 2), (7, 3), (3, 1))
    np.testing.assert_array_equal(one(seen(one)), other(seen(other)))


def test_it_is_linear_in_its_weights():
    there = seen(mse((7,)))
    values = [mse((12, 7, 3), weights=weights)(there) for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0.5, 3))]
    np.testing.assert_allclose(2 * values[0] + 0.5 * values[1] + 3 * values[2], values[3], rtol=1e-6)
    np.testing.assert_allclose(values[1], mse((7,))(there), rtol=1e-6)


def test_the_length_of_the_students_vectors_does_not_matter():
    there = one_text([3.0, 4.0, 1.0], [0.0, 2.0, 1.5])
    longer = one_text([30.0, 40.0, 10.0], [0.0, 2.0, 1.5])
    np.testing.assert_allclose(mse((3, 2))(there), mse((3, 2))(longer), rtol=1e-6)


def test_a_step_sums_the_prefixes_it_draws():
    loss = mse((12, 7, 3), dims_per_step=1)
    there = seen(loss)
    alone = {dim: np.asarray(mse((dim,))(there)) for dim in (12, 7, 3)}
    drawing, drawn = jax.jit(lambda key: loss(there._replace(key=key))), set()
    for seed in range(8):
        key = jax.random.key(seed)
        dim = (12, 7, 3)[draw(jax.random.split(key)[0], 3, 1)[0]]
        np.testing.assert_allclose(drawing(key), alone[dim], rtol=1e-6)
        drawn.add(dim)
    assert len(drawn) > 1


def test_prefixes_go_through_the_first_rows_of_the_projection():
    """Rows of the kernel behind the prefix are neither read nor moved."""
    loss = Matryoshka(loss=EmbedCosine(), dims=(5,), teacher=TEACHER)
    case = Case(loss, lambda given: None)
    gradient = jax.jit(jax.grad(lambda student: loss(view_of(case, student, {}, batch(case, INPUT))).mean()))(
        jax.tree.map(jnp.asarray, vectors(case, INPUT))
    )
    kernel, documents = gradient.projections[TEACHER].kernel, gradient.columns.documents
    assert bool(jnp.all(kernel[:5] != 0) & jnp.all(documents[..., :5] != 0))
    assert not bool(jnp.any(kernel[5:] != 0) | jnp.any(documents[..., 5:] != 0))


@pytest.mark.parametrize(
    ("inner", "projection", "cut"),
    [
        (EmbedCosine(), False, True),
        (EmbedCosine(), True, False),
        (ScoreZscore(), False, False),
        (InfoNCE(false_negatives=(TeacherFilter(margin=0.3),)), False, False),
    ],
)
def test_only_vectors_compared_without_a_projection_are_cut_from_the_teacher(inner, projection, cut):
    loss = Matryoshka(loss=inner, dims=(4,), teacher=TEACHER)
    there = seen(loss, projection=projection)

    def beyond(value: float) -> np.ndarray:
        changed = jax.tree.map(lambda x: x.at[..., 4:].mul(value), there.teacher)
        return np.asarray(loss(there._replace(teacher=changed)))

    assert np.array_equal(beyond(-1.0), beyond(3.0)) == cut


def test_needs_and_parameters_are_those_of_the_loss_inside():
    learned = InfoNCE(temperature=Learned(start=0.1))
    loss = Matryoshka(loss=learned, dims=(4,))
    assert loss.needs() == Needs()
    assert loss.teachers == ()
    assert loss.parameters() == learned.parameters() != {}
    gradient = jax.jit(jax.grad(lambda parameters: loss(seen(loss)._replace(parameters=parameters)).mean()))(
        loss.parameters()
    )
    assert all(bool(x != 0) for x in jax.tree.leaves(gradient))
    assert Matryoshka(loss=EmbedCosine(), dims=(4,)).needs() == EmbedCosine().needs()


def test_a_recipes_only_teacher_is_that_of_the_loss_inside():
    content = {
        "store": "s",
        "run": "r",
        "data": {"d": {"path": "x.csv", "columns": {"text": "t"}}},
        "teachers": {"big": {"model": "m"}},
        "student": {"init": "i"},
        "losses": {
            "a": {"kind": "matryoshka", "dims": [4], "loss": {"kind": "embed_cosine"}},
            "b": {"kind": "adaptive_layer", "loss": {"kind": "matryoshka", "dims": [4], "loss": {"kind": "embed_l2"}}},
            "c": {"kind": "matryoshka", "dims": [4], "loss": {"kind": "info_nce"}},
        },
        "train": {"steps": 1, "global_batch_size": 2},
    }
    terms = parse(Recipe, content, where="run.yaml").terms()
    assert {name: term.teachers for name, term in terms.items()} == {"a": ("big",), "b": ("big",), "c": ()}
    content["teachers"]["small"] = {"model": "n"}
    with pytest.raises(UserError, match=r"losses.a.teacher: there are several teachers \(big, small\); name one"):
        parse(Recipe, content, where="run.yaml")


def test_prefixes_beyond_the_students_width_are_refused():
    loss = mse((16, 12, 14))
    with pytest.raises(UserError, match=f"matryoshka: dims has 16, 14, but the student's width is {WIDTH}. Lower it"):
        loss(seen(loss))


def test_different_widths_without_a_projection_are_refused():
    there = seen(mse((4,)))._replace(projection=None)
    with pytest.raises(ValueError, match="embed_mse needs vectors of equal width, but the student's have 12 and the"):
        mse((4,))(there)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": (3, 3)}, r"dims \[3, 3\] has a number twice"),
        ({"dims": ()}, "at least 1 item"),
        ({"dims": (3, 0)}, "greater than 0"),
        ({"dims": (3, 2), "weights": (1.0,)}, "weights has 1 numbers, but dims has 2"),
        ({"dims": (3, 2), "weights": (1.0, -1.0)}, "greater than or equal to 0"),
        ({"dims": (3, 2), "dims_per_step": 3}, "dims_per_step is 3, but dims has 2"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mse(**options)
