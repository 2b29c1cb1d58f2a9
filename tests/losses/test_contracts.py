"""What every member of the union of losses owes to whoever calls it."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from jdistill import losses
from jdistill.losses import Loss, LossConfig
from tests.losses.cases import CASES, Case
from tests.losses.inputs import INPUTS, fits, plain
from tests.losses.measure import view

MEMBERS = typing.get_args(typing.get_args(Loss)[0])


@pytest.mark.parametrize("member", MEMBERS)
def test_every_loss_has_a_case_under_its_kind(member: type[LossConfig]) -> None:
    kind = member.model_fields["kind"].default
    assert any(type(case.loss) is member and label.split(",")[0] == kind for label, case in CASES.items()), (
        f"{member.__name__} has no row in tests/losses/cases.py"
    )


@pytest.mark.parametrize("member", MEMBERS)
def test_every_loss_is_documented_and_exported(member: type[LossConfig]) -> None:
    assert member.__name__ in losses.__all__
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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_float32_value_per_row(case: Case, dtype: jnp.dtype) -> None:
    inputs = plain(negatives=1)
    student, teacher = jax.tree.map(lambda x: jnp.asarray(x, dtype), (inputs.student, inputs.teacher))
    values = jax.eval_shape(lambda: case.loss(view(case.loss, student, teacher)))
    assert (values.shape, values.dtype) == ((inputs.rows,), jnp.float32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_follow_the_rows_when_the_batch_is_permuted(case: Case) -> None:
    order = np.random.default_rng(0).permutation(16)
    for name in ("1 negative", "plain texts"):
        if fits(case, INPUTS[name]):
            student, teacher = INPUTS[name].student, INPUTS[name].teacher
            permuted = jax.tree.map(lambda x: x[order], (student, teacher))
            values = jax.jit(lambda s, t: case.loss(view(case.loss, s, t)))
            np.testing.assert_allclose(values(*permuted), values(student, teacher)[order], rtol=2e-5, atol=1e-6)
