"""Scanned or unrolled, rematerialised or not: the same hidden states and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jdistill.student.layers import dropout
from jdistill.student.modules import Linear
from jdistill.student.stack import Pattern, find_pattern, run_layers


class Part(nnx.Module):
    def __init__(self, sign: int, rngs: nnx.Rngs) -> None:
        self.sign = sign
        self.linear = Linear(4, 4, std=0.5, rngs=rngs)


def call(part: Part, x: jax.Array, key: jax.Array | None) -> jax.Array:
    return dropout(x + part.sign * jnp.tanh(part.linear(x)), 0.25, key)


SIGNS = (1, 1, 1, -1, 1, 1, -1, 1, 1, -1, 1)


def run(states, graphs, x, keys, **options):
    layers = [nnx.merge(graph, state) for graph, state in zip(graphs, states, strict=True)]
    return run_layers(layers, call, x, keys, **options)


@pytest.fixture(scope="module")
def parts():
    rngs = nnx.Rngs(params=0)
    graphs, states = zip(*(nnx.split(Part(sign, rngs)) for sign in SIGNS), strict=True)
    return graphs, states


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("remat", ["none", "products", "everything"])
def test_a_scan_is_the_same_in_value_and_gradient(parts, remat, dropped):
    graphs, states = parts
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    keys = list(jax.random.split(jax.random.key(0), len(SIGNS))) if dropped else [None] * len(SIGNS)

    def loss(states, **options):
        return (run(states, graphs, x, keys, wanted=(len(SIGNS),), **options)[len(SIGNS)] ** 2).sum()

    expected = jax.value_and_grad(loss)(states, scan=False)
    found = jax.value_and_grad(loss)(states, scan=True, remat=remat)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest), found, expected)


def test_a_scan_compiles_one_turn_of_the_pattern(parts):
    graphs, states = parts
    x = jnp.zeros((2, 3, 4))

    def count(scan: bool) -> int:
        keys = [None] * len(SIGNS)
        program = jax.make_jaxpr(lambda s: run(s, graphs, x, keys, wanted=(len(SIGNS),), scan=scan))(states)
        return str(program).count("dot_general")

    assert count(False) == len(SIGNS)
    assert count(True) == 5  # two of their own, three that turn


def test_earlier_layers_are_given_too(parts):
    graphs, states = parts
    x = jnp.ones((1, 2, 4))
    done = run(states, graphs, x, [None] * len(SIGNS), wanted=(3, 0, 5), scan=True)
    assert set(done) == {0, 3, 5}
    np.testing.assert_array_equal(done[0], x)
    alone = run(states[:3], graphs[:3], x, [None] * 3, wanted=(3,))
    np.testing.assert_allclose(done[3], alone[3], rtol=1e-6)


@pytest.mark.parametrize(
    ("kinds", "pattern"),
    [
        ([0] * 6, Pattern(0, 1, 6)),
        ([0, *[1, 1, 2] * 7], Pattern(1, 3, 7)),
        ([0, 1, 2], None),
        ([], None),
        ([0, 1] * 2 + [2], Pattern(0, 2, 2)),
    ],
)
def test_the_pattern_is_the_one_that_compiles_least(kinds, pattern):
    assert find_pattern(kinds) == pattern
