"""What every member of the union of losses owes to whoever calls it."""

import functools
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from jdistill import losses
from jdistill.losses import Loss, LossConfig
from jdistill.recipe import Recipe
from jdistill.types import Batch, Vectors
from tests.losses.cases import CASES, FIRST_OF_KIND, Case
from tests.losses.inputs import INPUTS, Inputs, change, fits, plain
from tests.losses.measure import batch, learned, vectors, view_of

DTYPES = [
    pytest.param(label, dtype, marks=[pytest.mark.exhaustive] * (label not in FIRST_OF_KIND and dtype != jnp.float32))
    for label in CASES
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
]
MEMBERS = typing.get_args(typing.get_args(Loss)[0])[:-1]  # the last stands for those of other packages


@pytest.mark.parametrize("member", MEMBERS)
def test_every_loss_has_a_case_under_its_kind(member: type[LossConfig]) -> None:
    kind = member.model_fields["kind"].default
    assert any(type(case.loss) is member and label.split(",")[0] == kind for label, case in CASES.items()), (
        f"{member.__name__} has no row in tests/losses/cases/"
    )


@pytest.mark.parametrize("member", MEMBERS)
def test_every_loss_is_documented_and_exported(member: type[LossConfig]) -> None:
    assert getattr(losses, member.__name__) is member
    assert member.__doc__
    undocumented = [n for n, f in member.model_fields.items() if n != "kind" and not f.description]
    assert not undocumented


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_configuration_survives_yaml(case: Case) -> None:
    assert TypeAdapter(Loss).validate_python(case.loss.model_dump(mode="json")) == case.loss


@pytest.mark.parametrize("option", [{"temperature": 0}, {"similarity": "euclidean"}, {"weight": -1}, {"scale": 20}])
def test_impossible_options_are_refused(option: dict) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Loss).validate_python({"kind": "info_nce", **option})


@pytest.mark.parametrize(("label", "dtype"), DTYPES)
def test_one_float32_value_per_row(label: str, dtype: jnp.dtype) -> None:
    case = CASES[label]
    inputs = plain(negatives=1)
    given, parts = jax.tree.map(jnp.asarray, (vectors(case, inputs), batch(case, inputs)))
    columns, hidden, targets = jax.tree.map(lambda x: x.astype(dtype), (given.columns, given.at_layer, parts.targets))
    given, parts = given._replace(columns=columns, at_layer=hidden), parts._replace(targets=targets)
    values = jax.eval_shape(lambda: case.loss(view_of(case, given, learned(case), parts)))
    assert (values.shape, values.dtype) == ((inputs.rows,), jnp.float32)


@pytest.mark.parametrize("label", CASES)
def test_values_follow_the_rows_when_the_batch_is_permuted(label: str) -> None:
    case, order = CASES[label], np.random.default_rng(0).permutation(16)
    name = "1 negative" if fits(case, INPUTS["1 negative"]) else "plain texts"
    inputs, draws = INPUTS[name], type(case.loss).__name__ in DRAWING
    values, again = (values_of(label, x) for x in (inputs, permuted(inputs, order)))
    if not draws:  # which comparisons a row is drawn depends on its place
        np.testing.assert_allclose(again, values[order], rtol=5e-5, atol=2e-6)


DRAWING = ("ScoreRank",)


@pytest.mark.parametrize("label", CASES)
def test_a_row_depends_on_other_rows_exactly_where_the_loss_says_so(label: str) -> None:
    """Half of the batch gives way to other rows: what the rest is worth changes, or does not."""
    case = CASES[label]
    name = "1 negative" if fits(case, INPUTS["1 negative"]) else "plain texts"
    inputs, kept = INPUTS[name], 8
    changed = change(
        inputs,
        lambda x: np.concatenate([x[:kept], x[kept:] + x[:1]]),
        lambda x: np.concatenate([x[:kept], x[:kept] - x[1:2]]),
        # By text, what matters is which texts are equal: the others become copies of the rows that stay.
        ids=lambda ids: np.concatenate([ids[:kept], ids[:kept]]),
        scores=lambda scores: np.concatenate([scores[:kept], -3 * scores[kept:]]),
    )._replace(labels=np.concatenate([inputs.labels[:kept], inputs.labels[kept:][::-1]]))
    values, again = (values_of(label, x)[:kept] for x in (inputs, changed))
    assert case.loss.needs().batch == bool(np.abs(values - again).max() > 1e-5 * np.abs(values).max())


def values_of(label: str, inputs: Inputs) -> np.ndarray:
    """What each row of a batch is worth."""
    case = CASES[label]
    return np.asarray(_compiled(label)(vectors(case, inputs), batch(case, inputs)))


@functools.cache
def _compiled(label: str) -> Callable:
    case = CASES[label]

    def values(given: Vectors, parts: Batch) -> jax.Array:
        return case.loss(view_of(case, given, learned(case), parts))

    return jax.jit(values)


def permuted(inputs: Inputs, order: np.ndarray) -> Inputs:
    """The same batch, its rows in another order."""
    moved = jax.tree.map(lambda x: x[order], inputs._replace(kernels={}, tolerance=order))
    return moved._replace(kernels=inputs.kernels, tolerance=inputs.tolerance)


def test_the_schema_describes_every_loss_and_option() -> None:
    definitions = Recipe.model_json_schema()["$defs"]
    for member in MEMBERS:
        apart = f"{member.__module__}.{member.__name__}".replace(".", "__")  # of two classes of one name
        described = definitions.get(member.__name__) or definitions[apart]
        if described["properties"].get("kind", {}).get("const") != member.model_fields["kind"].default:
            described = definitions[apart]
        assert described["description"].strip()
        undescribed = [
            key for key, field in described["properties"].items() if key != "kind" and not field.get("description")
        ]
        assert not undescribed, f"{member.__name__}: {undescribed}"
