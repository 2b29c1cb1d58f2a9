"""What goes from layer to layer of a Gemma 3 that computes in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.student.encoders.base import Computing
from jdistill.student.packing import rows_of
from jdistill.student.rotary import rope_tables
from tests.student.encoders.measure import architecture, make, ours, tokens_of


def test_embeddings_are_rounded_once() -> None:
    exact = jnp.asarray(ours("gemma3", "right").hidden[0])
    half = ours("gemma3", "right", "bfloat16").hidden[0]
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16).astype(jnp.float32))


def test_a_layer_gives_float32() -> None:
    config, rows = architecture("gemma3"), rows_of(tokens_of("gemma3", "right"))
    layer = make(config, Computing(jnp.dtype("bfloat16"))).layers["0"]
    tables = rope_tables(rows.positions, config.head_dim, layer.options.rope)
    given = jax.ShapeDtypeStruct((*rows.ids.shape, config.width), jnp.float32)
    assert jax.eval_shape(lambda x: layer(x, rows.places, tables, dropout_key=None), given).dtype == jnp.float32
