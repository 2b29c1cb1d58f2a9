"""`adaptive_layer`: the loss at each layer, and the divergence from the last."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.losses import AdaptiveLayer, EmbedCosine, EmbedMSE, Hidden, LossConfig, Matryoshka
from jdistill.types import LossInputs, Vectors
from tests.losses.cases import TEACHER, Case
from tests.losses.inputs import INPUTS
from tests.losses.measure import batch, vectors, view, view_of

INPUT = INPUTS["1 negative"]


def seen(loss: LossConfig) -> LossInputs:
    return view(Case(loss, lambda given: None), INPUT)


def adaptive(**options) -> AdaptiveLayer:
    return AdaptiveLayer(loss=EmbedMSE(), teacher=TEACHER, **{"layers_per_step": None, **options})


def test_it_needs_every_layer_and_what_the_loss_inside_needs():
    assert adaptive().needs() == EmbedMSE().needs()._replace(layers="every")
    assert adaptive().teachers == (TEACHER,)


def test_each_layer_counts_by_its_weight_and_their_number():
    there = seen(adaptive())
    inner = EmbedMSE(teacher=TEACHER)
    last = inner(there)
    layers = [inner(there._replace(student=there.at_layer[i])) for i in range(3)]
    linear = adaptive(kl_div_weight=0, last_layer_weight=3, prior_layers_weight=0.5, layer_weighting="linear")
    expected = 3 * last + 0.5 / 3 * (layers[0] + layers[1] / 2 + layers[2] / 3)
    np.testing.assert_allclose(linear(there), expected, rtol=1e-6)
    np.testing.assert_allclose(adaptive(kl_div_weight=0)(there), last + sum(layers) / 3, rtol=1e-6)


def test_one_layer_a_step_is_that_layer_alone():
    loss = adaptive(layers_per_step=1, kl_div_weight=0, last_layer_weight=0)
    there = seen(loss)
    layers = [EmbedMSE(teacher=TEACHER)(there._replace(student=there.at_layer[i])) for i in range(3)]
    drawing = jax.jit(lambda key: loss(there._replace(key=key)))
    found = set()
    for seed in range(8):
        value = drawing(jax.random.key(seed))
        (layer,) = (i for i in range(3) if np.allclose(value, layers[i], rtol=1e-5))
        found.add(layer)
    assert len(found) > 1


def test_the_divergence_is_from_the_last_layer_over_the_texts_of_a_row():
    loss = adaptive(prior_layers_weight=0, last_layer_weight=0, kl_temperature=0.5, kl_div_weight=2)
    there = seen(loss)
    expected = np.zeros(INPUT.rows)
    for layer in range(3):
        columns = zip(_texts(there.at_layer[layer]), _texts(there.student), strict=True)
        expected += np.mean([_kl(ours / 0.5, last / 0.5) for ours, last in columns], axis=0)
    np.testing.assert_allclose(loss(there), 2 * 0.5 * expected, rtol=1e-4)


def _texts(side) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in (side.queries, side.documents, *jnp.moveaxis(side.negatives, 1, 0))]


def _kl(ours: np.ndarray, last: np.ndarray) -> np.ndarray:
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (last, ours))
    return (p * np.log(p / q)).sum(axis=1)


def test_the_last_layer_does_not_learn_from_the_divergence():
    loss = adaptive(prior_layers_weight=0, last_layer_weight=0)
    case = Case(loss, lambda given: None)

    def mean(student: Vectors) -> jax.Array:
        return loss(view_of(case, student, {}, batch(case, INPUT))).mean()

    gradient = jax.jit(jax.grad(mean))(jax.tree.map(jnp.asarray, vectors(case, INPUT)))
    assert not any(bool(jnp.any(x != 0)) for x in jax.tree.leaves((gradient.columns, gradient.projections)))
    assert all(bool(jnp.any(x != 0)) for x in jax.tree.leaves(gradient.at_layer))


def test_more_layers_than_there_are_means_all():
    there = seen(adaptive())
    np.testing.assert_array_equal(adaptive(layers_per_step=9)(there), adaptive()(there))


def test_each_layer_draws_its_own_prefixes():
    inner = Matryoshka(loss=EmbedMSE(), dims=(12, 7, 3), dims_per_step=1)
    loss = AdaptiveLayer(loss=inner, layers_per_step=None, kl_div_weight=0, teacher=TEACHER)
    there = seen(loss)
    same = there._replace(at_layer=dict.fromkeys(range(3), there.student))
    alone = {d: float(Matryoshka(loss=EmbedMSE(), dims=(d,), teacher=TEACHER)(same).mean()) for d in inner.dims}
    possible = [alone[a] + (alone[b] + alone[c] + alone[d]) / 3 for a in alone for b in alone for c in alone
                for d in alone]  # fmt: skip
    all_alike = [2 * value for value in alone.values()]
    drawing = jax.jit(lambda key: loss(same._replace(key=key)).mean())
    values = [float(drawing(jax.random.key(seed))) for seed in range(6)]
    assert all(any(np.isclose(value, p, rtol=1e-5) for p in possible) for value in values)
    assert any(not np.isclose(value, all_alike, rtol=1e-5).any() for value in values)


def test_a_student_without_layers_is_refused():
    with pytest.raises(UserError, match="adaptive_layer trains earlier layers of the student, but it has none"):
        adaptive()(seen(adaptive())._replace(at_layer={}))


@pytest.mark.parametrize("inner", [Hidden(layer=1), Matryoshka(loss=Hidden(layer=1), dims=(4,))])
def test_a_loss_that_picks_its_own_layer_is_refused(inner):
    with pytest.raises(ValueError, match="selects its own layer and cannot be nested"):
        AdaptiveLayer(loss=inner)


@pytest.mark.parametrize("option", [{"layers_per_step": 0}, {"kl_temperature": 0}, {"layer_weighting": "log2"}])
def test_impossible_options_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        AdaptiveLayer(loss=EmbedCosine(), **option)
