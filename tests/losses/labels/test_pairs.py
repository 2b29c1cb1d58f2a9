"""What data these losses refuse, and scores finer than one float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.losses import AnglE, CoSENT, CosineSimilarity, LossConfig, Triplet
from jdistill.losses.labels.pairs import Scores, cosines
from tests.losses.cases import Case
from tests.losses.inputs import plain
from tests.losses.measure import view

SCORED = [CoSENT(), AnglE(), CosineSimilarity()]


def refused(term: LossConfig, given) -> str:
    with pytest.raises(UserError) as error:
        term(given)
    return str(error.value)


@pytest.mark.parametrize("term", [*SCORED, Triplet()], ids=lambda t: t.kind)
def test_plain_texts_are_refused(term: LossConfig) -> None:
    message = refused(term, view(Case(term, lambda _: None, scores="pair"), plain(queries=False, negatives=1)))
    assert message.startswith(term.kind)
    assert "data.<source>.columns" in message


@pytest.mark.parametrize("term", SCORED, ids=lambda t: t.kind)
def test_rows_without_scores_are_refused(term: LossConfig) -> None:
    assert "data.<source>.columns.score" in refused(term, view(Case(term, lambda _: None), plain()))


@pytest.mark.parametrize("term", SCORED, ids=lambda t: t.kind)
def test_rows_with_several_scores_are_refused(term: LossConfig) -> None:
    given = view(Case(term, lambda _: None, scores="documents"), plain(negatives=2))
    assert "3 each" in refused(term, given)


def test_triplets_need_hard_negatives() -> None:
    message = refused(Triplet(), view(Case(Triplet(), lambda _: None), plain()))
    assert "data.<source>.columns.negatives" in message


@pytest.mark.parametrize("width", [1, 12, 384])
@pytest.mark.parametrize("compiled", [False, True])
def test_cosines_are_finer_than_float32(width: int, compiled: bool) -> None:
    random = np.random.default_rng(width)
    a, b = np.float32(random.standard_normal((2, 200, width)))
    b += a  # near 1, where float32 is coarsest
    x, y = np.float64(a), np.float64(b)
    expected = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    coarse, rest = (jax.jit(cosines) if compiled else cosines)(jnp.asarray(a), jnp.asarray(b))
    ours = np.float64(coarse) + np.float64(rest)
    assert np.abs(ours - expected).max() < 4e-8
    assert np.sqrt(np.square(ours - expected).mean()) < 1.2e-8
    assert (coarse * 2**16 == jnp.round(coarse * 2**16)).all()


def test_gradient_of_cosines_is_that_of_their_sum() -> None:
    a, b = jnp.float32(np.random.default_rng(0).standard_normal((2, 5, 4)))

    def plainly(a: jax.Array) -> jax.Array:
        lengths = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
        return ((a * b).sum(axis=1) / lengths).sum()

    def ours(a: jax.Array) -> jax.Array:
        scores: Scores = cosines(a, b)
        return scores.coarse.sum() + scores.rest.sum()

    np.testing.assert_allclose(jax.grad(ours)(a), jax.jit(jax.grad(plainly))(a), rtol=1e-5, atol=1e-7)


def test_cosine_with_a_zero_vector_is_zero() -> None:
    a = jnp.zeros((1, 4))
    gradient = jax.jit(jax.grad(lambda a: cosines(a, jnp.ones((1, 4))).rest.sum()))(a)
    assert float(cosines(a, jnp.ones((1, 4))).rest[0]) == 0
    assert np.isfinite(gradient).all()
