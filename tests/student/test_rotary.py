"""Rotary positions: what the paper promises, and transformers' own numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.rotary import Rope, rope_tables, rotate


def vectors(seed: int, *shape: int):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_scores_depend_on_the_distance_alone():
    q, k = vectors(0, 1, 1, 2, 8), vectors(1, 1, 1, 2, 8)

    def score(i: int, j: int):
        turned = [rotate(x, rope_tables(jnp.array([[at]]), 8, Rope(10_000.0))) for x, at in ((q, i), (k, j))]
        return np.asarray((turned[0] * turned[1]).sum(-1))

    np.testing.assert_allclose(score(3, 10), score(103, 110), atol=1e-5)
    assert not np.allclose(score(3, 10), score(3, 11), atol=1e-3)


def test_lengths_stay_and_the_first_place_is_not_turned():
    x = vectors(0, 2, 5, 3, 8)
    turned = rotate(x, rope_tables(jnp.arange(5)[None], 8, Rope(10_000.0)))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(turned[:, 0], x[:, 0], rtol=1e-6)


def test_a_part_of_each_head_may_be_turned():
    x = vectors(0, 1, 4, 2, 8)
    turned = rotate(x, rope_tables(jnp.arange(4)[None], 4, Rope(10_000.0)))
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_allclose(turned[..., :4], rotate(x[..., :4], rope_tables(jnp.arange(4)[None], 4, Rope(10_000.0))))


@pytest.mark.parity
def test_equal_to_transformers():
    torch = pytest.importorskip("torch")
    from transformers import ModernBertConfig
    from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding, apply_rotary_pos_emb

    config = ModernBertConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=3)
    q, k = vectors(0, 2, 6, 4, 8), vectors(1, 2, 6, 4, 8)
    positions = torch.arange(6)[None]
    for kind in ("full_attention", "sliding_attention"):
        cosine, sine = ModernBertRotaryEmbedding(config)(torch.zeros(1), positions, kind)
        theirs = apply_rotary_pos_emb(*(torch.tensor(np.asarray(x)).transpose(1, 2) for x in (q, k)), cosine, sine)
        tables = rope_tables(jnp.arange(6)[None], 8, Rope(config.rope_parameters[kind]["rope_theta"]))
        for ours, expected in zip((q, k), theirs, strict=True):
            np.testing.assert_allclose(rotate(ours, tables), expected.transpose(1, 2).numpy(), atol=1e-5)
