"""What of BERT the table of encoders does not try."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from jdistill.config import UserError
from jdistill.student.packing import rows_of
from tests.student.encoders.measure import (
    FAST_TO_COMPILE,
    architecture,
    make,
    mask_of,
    ours,
    params_of,
    tensors_of,
    tokens_of,
)


def test_only_the_layers_that_are_asked_for_are_given() -> None:
    config = architecture("bert")
    graph, tokens = nnx.split(nnx.eval_shape(lambda: make(config)))[0], tokens_of("bert", "right")

    @partial(jax.jit, compiler_options=FAST_TO_COMPILE)
    def run(params):
        return nnx.merge(graph, params)(rows_of(tokens), layers=(1, 0))

    chosen = run(params_of(config, tensors_of("bert")))
    assert set(chosen) == {0, 1}
    mask, every = mask_of("right"), ours("bert", "right").hidden
    for layer, hidden in chosen.items():
        np.testing.assert_allclose(np.asarray(hidden)[mask], every[layer][mask], atol=1e-6)


def test_every_misfit_is_reported_at_once() -> None:
    tensors = tensors_of("bert")
    tensors["encoder.layer.0.attention.self.extra.weight"] = np.zeros(1, np.float32)
    tensors["foreign"] = np.zeros(1, np.float32)
    del tensors["embeddings.LayerNorm.bias"], tensors["encoder.layer.1.output.dense.weight"]
    tensors["encoder.layer.1.intermediate.dense.bias"] = np.zeros(3, np.float32)
    with pytest.raises(UserError) as error:
        params_of(architecture("bert"), tensors)
    for part in ("2 tensors that", "extra", "foreign", "2 tensors missing", "LayerNorm.bias", "layer.1.output", "(3,)"):
        assert part in str(error.value)
