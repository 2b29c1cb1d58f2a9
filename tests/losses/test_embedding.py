"""Oracles written from the definitions, in float64 NumPy, and what happens where student and teacher agree."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.losses import (
    EmbedCosine,
    EmbedKL,
    EmbedL2,
    EmbedMSE,
    LossConfig,
    embed_cosine,
    embed_kl,
    embed_l2,
    embed_mse,
)
from jdistill.types import PairEmbeddings
from tests.losses.cases import Case
from tests.losses.inputs import plain
from tests.losses.measure import view

RANDOM = np.random.default_rng(0)
S, T = RANDOM.standard_normal((2, 6, 32)) / 32**0.5


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def kl(s: np.ndarray, t: np.ndarray, temperature: float) -> np.ndarray:
    p, q = softmax(t / temperature), softmax(s / temperature)
    return (p * np.log(p / q)).sum(axis=-1) * temperature**2


ORACLES: dict[str, tuple[Callable, Callable]] = {
    "cosine": (
        embed_cosine,
        lambda s, t: 1 - (s * t).sum(axis=-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1),
    ),
    "l2": (embed_l2, lambda s, t: np.linalg.norm(s - t, axis=-1)),
    "mse": (embed_mse, lambda s, t: ((s - t) ** 2).mean(axis=-1)),
    **{
        f"kl at {temperature}": (
            lambda s, t, temperature=temperature: embed_kl(s, t, temperature=temperature),
            lambda s, t, temperature=temperature: kl(s, t, temperature),
        )
        for temperature in (0.01, 0.2, 1.0, 10.0)
    },
}


@pytest.mark.parametrize("name", ORACLES)
def test_values_and_gradients_of_the_definition(name: str) -> None:
    ours, oracle = ORACLES[name]
    s, t = jnp.float32(S), jnp.float32(T)
    value, gradient = jax.jit(jax.value_and_grad(lambda s: ours(s, t).sum()))(s)
    s64, t64 = np.float64(s), np.float64(t)
    np.testing.assert_allclose(ours(s, t), oracle(s64, t64), rtol=1e-5)
    step = 1e-5
    numeric = np.zeros_like(s64)
    for index in np.ndindex(s64.shape):
        up, down = s64.copy(), s64.copy()
        up[index] += step
        down[index] -= step
        numeric[index] = (oracle(up, t64).sum() - oracle(down, t64).sum()) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, atol=1e-5 * np.abs(numeric).max() + 1e-9)
    assert np.isfinite(value)


@pytest.mark.parametrize("name", ORACLES)
def test_nothing_to_learn_where_student_and_teacher_agree(name: str) -> None:
    ours, _ = ORACLES[name]
    t = jnp.float32(T)
    value, gradient = jax.jit(jax.value_and_grad(lambda s: ours(s, t).sum()))(t)
    assert abs(value) <= 1e-6
    np.testing.assert_allclose(gradient, np.zeros_like(T), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.05, 1.0]))
def test_divergence_is_finite_and_not_negative(seed: int, temperature: float) -> None:
    s, t = jnp.float32(np.random.default_rng(seed).standard_normal((2, 4, 8)))
    values, gradient = jax.jit(jax.value_and_grad(lambda s: embed_kl(s, t, temperature=temperature).sum()))(s)
    assert np.isfinite(gradient).all()
    assert (embed_kl(s, t, temperature=temperature) >= 0).all()
    assert np.isfinite(values)


@pytest.mark.parametrize(
    "term", [EmbedCosine(teacher="t"), EmbedL2(teacher="t"), EmbedMSE(teacher="t"), EmbedKL(teacher="t")]
)
def test_every_column_of_a_row_counts_alike(term: LossConfig) -> None:
    inputs, case = plain(negatives=2), Case(term, lambda _: None)
    whole = term(view(case, inputs))
    columns = []
    for s, t in zip(texts(inputs.student), texts(inputs.teachers["t"]), strict=True):
        one = inputs._replace(
            student=PairEmbeddings(None, s[:, None]),
            teachers={"t": PairEmbeddings(None, t[:, None])},
            ids=(None, inputs.ids[1][:, :1]),
        )
        columns.append(term(view(case, one)))
    np.testing.assert_allclose(whole, np.mean(columns, axis=0), rtol=2e-6, atol=1e-7)


def texts(columns: PairEmbeddings) -> list[np.ndarray]:
    return [columns.queries, *columns.documents.swapaxes(0, 1)]


def test_widths_and_columns_must_agree() -> None:
    term = EmbedCosine(teacher="t")
    there = view(Case(term, lambda _: None), plain())
    with pytest.raises(ValueError, match="student's have 12 and the teacher's 20"):
        term(there._replace(projection=None))
    with pytest.raises(ValueError, match="vectors of queries"):
        term(there._replace(teacher=there.teacher._replace(queries=None)))
    with pytest.raises(ValueError, match="there is none"):
        term(there._replace(teacher=None))
