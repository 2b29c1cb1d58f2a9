import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.losses import ScoreMarginMSE, score_margin_mse
from tests.losses.inputs import Inputs, plain
from tests.losses.scores.scored import unit, vectors, view_for


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_margins_of_the_teachers_vectors(similarity: str) -> None:
    inputs = plain(negatives=3)
    term = ScoreMarginMSE(teacher="t", similarity=similarity)
    scale = unit if similarity == "cosine" else np.float64

    def margins(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        scores = np.einsum("bd,bcd->bc", scale(queries), scale(documents))
        return scores[:, :1] - scores[:, 1:]

    expected = (margins(*inputs.student) - margins(*inputs.teachers["t"])) ** 2
    np.testing.assert_allclose(term(view_for(term, inputs)), expected.mean(axis=1), rtol=1e-5)


def test_scores_and_their_margins_say_the_same() -> None:
    inputs, term = plain(negatives=3), ScoreMarginMSE(targets="scores")
    of_scores, of_margins = (term(view_for(term, inputs, given)) for given in ("documents", "margins"))
    np.testing.assert_array_equal(of_scores, of_margins)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_excluded_negative_is_as_if_it_were_not_there(seed: int) -> None:
    student, teacher = vectors(seed, (4, 5), (4, 5))
    kept = jnp.array([0, 1, 3, 4])
    for nothing in (jnp.inf, -jnp.inf, jnp.nan):
        masked = teacher.at[:, 2].set(nothing)
        value, gradient = jax.jit(jax.value_and_grad(lambda s, t: score_margin_mse(s, t).sum()))(student, masked)
        np.testing.assert_allclose(value, score_margin_mse(student[:, kept], teacher[:, kept]).sum(), rtol=1e-6)
        assert not gradient[:, 2].any()


def test_a_row_with_nothing_left_gives_zero() -> None:
    assert score_margin_mse(jnp.ones((1, 2)), jnp.full((1, 2), jnp.nan)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("inputs", "scores", "message"),
    [
        (plain(negatives=2), None, "these rows have no scores. Name a column of 2 or 3 numbers"),
        (plain(negatives=2), "pair", "these rows have 1 scores"),
        (plain(), "pair", "these rows have none. Name their columns"),
        (plain(negatives=2, queries=False), "documents", "plain texts without queries"),
    ],
)
def test_data_that_lack_something_are_refused(inputs: Inputs, scores: str | None, message: str) -> None:
    term = ScoreMarginMSE(targets="scores")
    with pytest.raises(UserError, match=message):
        term(view_for(term, inputs, scores))
