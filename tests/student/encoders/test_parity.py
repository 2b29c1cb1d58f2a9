"""Every encoder x option computes what transformers computes, padded on either side; packed, scanned or in bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jdistill.student.encoders import MODEL_TYPES
from jdistill.student.packing import rows_of
from tests.student.encoders.cases import CASES, MAIN, TYPES
from tests.student.encoders.measure import (
    DRAWS,
    FAST_TO_COMPILE,
    PACKED,
    SIDES,
    Draw,
    Side,
    allowed,
    architecture,
    config_json,
    difference,
    expected,
    make,
    mask_of,
    ours,
    packed,
    params_of,
    rounded,
    scanned,
    tensors_of,
    tokens_of,
)

pytestmark = pytest.mark.parity


def test_every_architecture_has_a_row() -> None:
    assert set(TYPES) == set(MODEL_TYPES)
    assert {MODEL_TYPES[CASES[label].hf["model_type"]] for label in MAIN} == set(MODEL_TYPES.values())


def test_a_larger_tolerance_has_a_cause() -> None:
    assert all(case.tolerance == 1e-5 or (case.tolerance <= 5e-5 and case.cause) for case in CASES.values())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("label", CASES)
def test_every_layer_and_the_whole_gradient_are_those_of_transformers(label: str, side: Side) -> None:
    found, theirs = ours(label, side), expected(label, side)
    assert found.hidden.shape == theirs.hidden.shape
    gap = difference(found, theirs)
    assert gap.value <= CASES[label].tolerance
    assert gap.gradient <= CASES[label].tolerance


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("label", MAIN)
def test_bfloat16_stays_near_float32(label: str, side: Side, draw: Draw) -> None:
    gap, theirs = rounded(label, side, draw)
    bound = allowed(label, draw, theirs)
    assert gap.value <= bound.value
    assert gap.gradient <= bound.gradient


@pytest.mark.parametrize("label", MAIN)
def test_packed_rows_give_what_padded_rows_give(label: str) -> None:
    gap = difference(*packed(label))
    assert gap.value <= PACKED
    assert gap.gradient <= PACKED


@pytest.mark.parametrize("label", MAIN)
def test_scanned_layers_are_the_unrolled_ones(label: str) -> None:
    gap = difference(*scanned(label))
    assert gap.value <= PACKED
    assert gap.gradient <= PACKED


@pytest.mark.parametrize("label", MAIN)
def test_dropout_needs_a_key_and_follows_it(label: str) -> None:
    config, tokens, mask = architecture(label), tokens_of(label, "right"), mask_of("right")
    graph, params = nnx.split(nnx.eval_shape(lambda: make(config)))[0], params_of(config, tensors_of(label))

    @partial(jax.jit, compiler_options=FAST_TO_COMPILE)
    def run(params, key):
        return nnx.merge(graph, params)(rows_of(tokens), layers=(config.depth,), dropout_key=key)[config.depth]

    one, again, other = (np.asarray(run(params, jax.random.key(seed)))[mask] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    plain = ours(label, "right").hidden[-1][mask]
    for x, y in ((one, other), (one, plain), (other, plain)):
        assert np.abs(x - y).max() > 0.1 * np.abs(plain).max()


@pytest.mark.parametrize("label", CASES)
def test_a_configuration_survives_the_round_trip(label: str) -> None:
    config = architecture(label)
    assert type(config).from_hf(config.to_hf(), where="again") == config
    assert config.to_hf()["model_type"] == config_json(label)["model_type"]
    paths = [weight.path for weight in config.weights()]
    assert len(set(paths)) == len(paths)
    assert jnp.dtype("float32") == next(iter(jax.tree.leaves(params_of(config, tensors_of(label))))).dtype
