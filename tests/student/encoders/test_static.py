"""The static embedding and the union of encoders."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pydantic import TypeAdapter

from jdistill.config import UserError
from jdistill.student import weights
from jdistill.student.encoders import Encoder, StaticConfig
from jdistill.student.encoders.base import Computing
from jdistill.student.packing import rows_of
from jdistill.types import Tokens

PLAIN = Computing(jnp.dtype("float32"))


def test_hidden_states_are_rows_of_the_table():
    config = StaticConfig(vocab_size=5, hidden_size=3)
    module = config.make_module(PLAIN, rngs=nnx.Rngs(params=0))
    graph, state = nnx.split(module)
    params = nnx.to_pure_dict(state)
    rows = rows_of(Tokens(jnp.array([[4, 0]]), jnp.ones((1, 2), bool)))
    hidden = nnx.merge(graph, params)(rows, layers=(config.depth,))[config.depth]
    np.testing.assert_array_equal(hidden[0], np.asarray(params["words"])[[4, 0]])
    tensors = weights.to_hf(config.weights(), params)
    assert {key: value.shape for key, value in tensors.items()} == {"embedding.weight": (5, 3)}


def test_there_are_no_layers_to_keep():
    with pytest.raises(UserError, match="no layers"):
        StaticConfig().keep_layers({}, [0])


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "static"])
def test_encoders_are_distinguished_by_kind(kind):
    config = TypeAdapter(Encoder).validate_python({"kind": kind})
    assert config.kind == kind


def test_the_table_covers_the_modules_parameters():
    config = StaticConfig()
    module = nnx.eval_shape(lambda: config.make_module(PLAIN, rngs=nnx.Rngs(params=0)))
    paths = set(weights.flatten(nnx.to_pure_dict(nnx.split(module)[1])))
    assert {weight.path for weight in config.weights()} == paths
