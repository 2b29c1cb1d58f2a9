from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.losses import Sigmoid, sigmoid
from tests.losses.cases import Case
from tests.losses.inputs import INPUTS, plain
from tests.losses.measure import view


def seen_by(loss: Sigmoid, name: str):
    return view(Case(loss, lambda _: None), INPUTS[name])


def test_by_hand() -> None:
    """Logits 2 cos - 1: 1 for the own document, -1 for an orthogonal one, -3 for the opposite."""
    query, documents = jnp.array([[5.0, 0.0]]), jnp.array([[0.0, 1.0], [2.0, 0.0], [-1.0, 0.0]])
    value = sigmoid(query, documents, jnp.array([1]), temperature=0.5, bias=-1.0)
    np.testing.assert_allclose(value, [np.log1p(np.exp([-1.0, -1.0, -3.0])).sum()], rtol=1e-6)


compiled = jax.jit(partial(sigmoid, temperature=0.1, bias=-3.0), static_argnames="block")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_candidates_add_up(seed: int) -> None:
    """In any order, in blocks, and each by itself."""
    random = np.random.default_rng(seed)
    q, c = (jnp.float32(random.standard_normal((n, 5))) for n in (3, 7))
    positives, order = jnp.array([4, 0, 6]), random.permutation(7)
    whole = compiled(q, c, positives)
    moved = compiled(q, c[order], np.argsort(order)[np.asarray(positives)], block=4)
    np.testing.assert_allclose(moved, whole, rtol=1e-5)
    parts = [compiled(q, c[i : i + 1], positives - i) for i in range(7)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_starts_as_in_the_paper_and_learns_both() -> None:
    loss = Sigmoid()
    parameters = loss.parameters()
    assert {k: float(v) for k, v in parameters.items()} == pytest.approx({"log_temperature": -np.log(10), "bias": -10})
    seen = seen_by(loss, "1 negative")
    gradient = jax.jit(jax.grad(lambda p: loss(seen._replace(parameters=p)).mean()))(parameters)
    assert all(float(x) != 0 for x in gradient.values())
    assert Sigmoid(temperature=0.1).parameters().keys() == {"bias"}


def test_logits_of_any_size_are_finite() -> None:
    loss = jax.jit(jax.value_and_grad(lambda q: sigmoid(q, -q, jnp.arange(3), temperature=1e-4, bias=100.0).sum()))
    value, gradient = loss(jnp.diag(jnp.array([1.0, 0.0, 1.0])))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_hard_negatives_count() -> None:
    loss = Sigmoid(bias=0.0)
    with_one, without = (float(loss(seen_by(loss, name)).mean()) for name in ("1 negative", "random"))
    assert with_one > without + 1


def test_plain_texts_have_no_query() -> None:
    with pytest.raises(UserError, match="sigmoid scores a query against documents"):
        Sigmoid()(view(Case(Sigmoid(), lambda _: None), plain(queries=False)))
