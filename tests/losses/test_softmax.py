"""Terms of divergences: each gives the derivative of the whole sum, normaliser included, without going through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import EmbedKL, embed_kl, listwise_kl
from jdistill.losses.softmax import DIVERGENCES, SPAN, underflow_warnings
from jdistill.types import PairEmbeddings

S, T = np.float32(np.random.default_rng(0).standard_normal((2, 4, 7)))


def plainly(s: jax.Array, t: jax.Array, kind: str) -> jax.Array:
    log_q, log_p = jax.nn.log_softmax(s, axis=-1), jax.nn.log_softmax(t, axis=-1)
    return {
        "kl": lambda: (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1),
        "cross_entropy": lambda: -(jnp.exp(log_p) * log_q).sum(axis=-1),
        "mse": lambda: jnp.square(jnp.exp(log_q) - jnp.exp(log_p)).sum(axis=-1),
    }[kind]()


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_value_and_derivative_are_those_of_the_softmaxes(kind: str) -> None:
    def ours(s: jax.Array) -> jax.Array:
        of_student, of_teacher = (jax.nn.logsumexp(x, axis=-1, keepdims=True) for x in (s, jnp.asarray(T)))
        return DIVERGENCES[kind](s, of_student, jnp.asarray(T), of_teacher).sum()

    value, gradient = jax.jit(jax.value_and_grad(ours))(jnp.asarray(S))
    expected, exact = jax.jit(jax.value_and_grad(lambda s: plainly(s, jnp.asarray(T), kind).sum()))(jnp.asarray(S))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, exact, atol=1e-6)


def test_a_probability_is_lost_just_where_float32_loses_it() -> None:
    tiny = np.finfo(np.float32).tiny
    assert np.exp(-SPAN) > tiny > np.exp(-SPAN - 1)
    rows = np.array([[0.0, -SPAN * 0.1 + 0.01], [5.0, 5.0]])
    assert underflow_warnings(rows, 0.1, what="scores", option="temperature") == []
    rows[0, 1] -= 0.1
    (problem,) = underflow_warnings(rows, 0.1, what="scores", option="temperature")
    assert problem.startswith("25.0 % of the teacher's probabilities")


def test_elements_of_vectors_are_examined_too() -> None:
    documents = np.zeros((3, 2, 4), np.float32)
    documents[0, 0, 0] = 1
    teacher = PairEmbeddings(None, documents)
    assert EmbedKL().check_targets(teacher, None) == []
    (problem,) = EmbedKL(temperature=0.01).check_targets(teacher, None)
    assert "12.5 %" in problem
    assert "the elements of its vectors span up to 1 in one row" in problem
    (problem,) = EmbedKL().check_targets(teacher._replace(queries=np.full((3, 4), np.nan, np.float32)), None)
    assert "NaN or infinity in 3 of 9 rows" in problem
    assert EmbedKL().check_targets(None, None) == []


@pytest.mark.parametrize("size", [30.0, 600.0, 5000.0])
def test_large_logits_keep_the_digits_that_count(size: float) -> None:
    """Two softmaxes over logits that lie close together, far from 0, beside float64 on the same float32 scores."""
    random = np.random.default_rng(0)
    student, teacher = (np.float32(size + random.standard_normal((64, 8))) for _ in range(2))

    def exact(scores: np.ndarray) -> np.ndarray:
        scores = np.float64(scores) - np.float64(scores).max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    p, q = exact(teacher), exact(student)
    right = (np.exp(p) * (p - q)).sum(axis=1)
    for loss in (
        lambda s, t: listwise_kl(s, t, temperature=1.0, teacher_temperature=1.0),
        lambda s, t: embed_kl(s, t, temperature=1.0),
    ):
        np.testing.assert_allclose(jax.jit(loss)(student, teacher), right, rtol=1e-5, atol=1e-7)
