"""Drawing parts, and what a loss inside another may not have."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import Config, UserError, parse
from jdistill.losses import EmbedCosine, Loss
from jdistill.losses.nested.base import draw, sum_drawn
from tests.losses.cases import TEACHER, Case
from tests.losses.inputs import INPUTS
from tests.losses.measure import view


class Run(Config):
    losses: dict[str, Loss]


def message(loss: dict, name: str = "x") -> str:
    with pytest.raises(UserError) as error:
        parse(Run, {"losses": {name: loss}}, where="run.yaml")
    return str(error.value)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_as_many_are_drawn_as_asked_for(seed, of, count):
    drawn = draw(jax.random.key(seed), of, count).tolist()
    assert len(set(drawn)) == min(of, count)
    assert drawn == sorted(drawn)
    assert set(drawn) <= set(range(of))


def test_all_are_equally_likely():
    drawn = jax.vmap(lambda key: draw(key, 5, 2))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / 4000, 0.4, atol=0.03)


def test_only_what_is_drawn_is_summed_and_computed():
    there = view(Case(EmbedCosine(teacher=TEACHER), lambda given: None), INPUTS["random"])
    done = []

    def part(i: int, x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: done.append(i))
        return x * 10.0**i

    @jax.jit
    def summed(key: jax.Array, x: jax.Array) -> jax.Array:
        return sum_drawn([partial(part, i, x) for i in range(4)], 2, there, key=key)

    for seed in range(5):
        done.clear()
        key = jax.random.key(seed)
        values = jax.block_until_ready(summed(key, jnp.ones(16)))
        jax.effects_barrier()
        expected = draw(key, 4, 2).tolist()
        assert sorted(done) == expected
        np.testing.assert_allclose(values, sum(10.0**i for i in expected))


@pytest.mark.parametrize("count", [None, 3, 7])
def test_without_a_number_all_are_summed(count):
    there = view(Case(EmbedCosine(teacher=TEACHER), lambda given: None), INPUTS["random"])
    parts = [lambda i=i: jnp.full(16, 10.0**i) for i in range(3)]
    np.testing.assert_allclose(sum_drawn(parts, count, there, key=jax.random.key(0)), 111.0)


MNRL = {"kind": "info_nce", "temprature": 1}


@pytest.mark.parametrize("name", ["x", "matryoshka", "info_nce"])
def test_a_mistake_inside_is_reported_with_its_place(name):
    outer = {"kind": "matryoshka", "dims": [4]}
    assert message({**outer, "loss": MNRL}, name) == (
        f"run.yaml: losses.{name}.loss.temprature: unknown key. Did you mean 'temperature'?"
    )
    assert message({**outer, "loss": {"kind": "embed_cosin"}}, name) == (
        f"run.yaml: losses.{name}.loss: unknown kind 'embed_cosin'. Did you mean 'embed_cosine'?"
    )
    assert message({**outer, "loss": {"kind": "hidden"}}, name).startswith(
        f"run.yaml: losses.{name}.loss.layer: missing. Number of layers of the student"
    )
    twice = {"kind": "adaptive_layer", "loss": {**outer, "loss": MNRL}}
    assert message(twice, name) == (
        f"run.yaml: losses.{name}.loss.loss.temprature: unknown key. Did you mean 'temperature'?"
    )


def test_a_loss_inside_names_no_teacher_and_has_no_weight():
    outer = {"kind": "matryoshka", "dims": [4]}
    for option in ({"teacher": "t"}, {"weight": 2.0}, {"weight": {"start": 0.0, "stop": 1.0}}):
        refusal = message({**outer, "loss": {"kind": "embed_cosine", **option}})
        assert refusal.startswith(f"run.yaml: losses.x.loss: has {next(iter(option))} ")
        assert refusal.endswith("It belongs to the whole term: move it up, beside 'loss'.")


def test_matryoshka_holds_no_matryoshka():
    inner = {"kind": "matryoshka", "dims": [4], "loss": {"kind": "info_nce"}}
    assert "losses.x.loss: unknown kind 'matryoshka'" in message({"kind": "matryoshka", "dims": [4], "loss": inner})
