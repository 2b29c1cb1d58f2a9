"""Contrastive losses by hand, and what their configuration refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.losses import Contrastive, OnlineContrastive, contrastive, online_contrastive
from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS, plain
from tests.losses.measure import view

TERMS = [Contrastive(), OnlineContrastive()]


def at(*distances: float) -> tuple[jax.Array, jax.Array]:
    """Pairs so far apart along one axis."""
    return jnp.zeros((len(distances), 1)), jnp.array(distances)[:, None]


def test_by_hand() -> None:
    q, d = at(0.2, 0.2, 0.7)
    values = contrastive(q, d, jnp.array([1.0, 0.0, 0.0]), distance="euclidean")
    np.testing.assert_allclose(values, [0.04 / 2, 0.09 / 2, 0], atol=1e-5)
    between = contrastive(q, d, jnp.array([0.5, 0.5, 0.5]), distance="manhattan")
    np.testing.assert_allclose(between, [(0.04 + 0.09) / 4, (0.04 + 0.09) / 4, 0.49 / 4], atol=1e-5)


def test_only_pairs_on_the_wrong_side_of_another_are_hard() -> None:
    """Of label 1: 0.1 and 0.6 apart; of label 0: 0.3 and 0.8. Only 0.6 and 0.3 are out of order."""
    q, d = at(0.1, 0.6, 0.3, 0.8)
    values = online_contrastive(q, d, jnp.array([1.0, 1.0, 0.0, 0.0]), distance="euclidean", margin=1.0)
    np.testing.assert_allclose(values, [0, 0.36, 0.49, 0], atol=1e-5)


@pytest.mark.parametrize(("label", "expected"), [(1.0, [0, 0, 0.25]), (0.0, [0.81, 0.64, 0])])
def test_pairs_of_one_label_are_compared_with_their_mean(label: float, expected: list[float]) -> None:
    """Distances 0.1, 0.2 and 0.5 have the mean 0.27."""
    values = online_contrastive(*at(0.1, 0.2, 0.5), jnp.full(3, label), distance="euclidean", margin=1.0)
    np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("label", ["online_contrastive", "online_contrastive, euclidean"])
def test_the_mean_over_rows_is_the_sum_over_hard_pairs(label: str) -> None:
    case, inputs = CASES[label], INPUTS["1 negative"]
    rows, one = case.loss(view(case, inputs)), OnlineContrastive.__call__
    seen = view(case, inputs)
    half = one(case.loss, seen._replace(rows=seen.rows[8:]))  # the rows of one of two devices
    np.testing.assert_allclose(rows[8:], half, rtol=1e-6)
    pairs = seen.student.all_queries, seen.student.all_documents[: inputs.rows], seen.all_scores[:, 0]
    options = {"margin": case.loss.margin, "distance": case.loss.distance}
    assert float(rows.mean()) == pytest.approx(float(online_contrastive(*pairs, **options).sum()), rel=1e-6)


def test_equal_vectors_that_are_to_be_apart_have_a_finite_gradient() -> None:
    same = jnp.ones((1, 4))
    for distance in ("euclidean", "manhattan", "cosine"):
        push = jax.jit(jax.grad(lambda q, d=distance: contrastive(q, same, jnp.zeros(1), distance=d).sum()))(same)
        assert jnp.isfinite(push).all()
        assert bool(push.any()) == (distance != "cosine")


@pytest.mark.parametrize("term", TERMS, ids=lambda t: t.kind)
def test_what_has_no_label_is_refused(term: Contrastive) -> None:
    case = CASES[term.kind]
    with pytest.raises(UserError, match=rf"^{term.kind} learns from a score of each pair.*columns.score"):
        term(view(case._replace(scores=None), plain()))
    with pytest.raises(UserError, match=rf"^{term.kind} .*plain texts without queries"):
        term(view(case, plain(queries=False)))


@pytest.mark.parametrize("cls", [Contrastive, OnlineContrastive])
def test_options_are_checked(cls: type) -> None:
    with pytest.raises(ValidationError, match="margin 2 can never be reached"):
        cls(margin=2.0)
    assert cls(distance="manhattan", margin=20.0).margin == 20
    with pytest.raises(ValidationError):
        cls(distance="hamming")


def test_scores_that_are_no_labels_are_reported() -> None:
    assert Contrastive().check_targets(None, jnp.array([[1.0], [0.0]])) == []
    (message,) = Contrastive().check_targets(None, jnp.array([[5.0], [0.0]]))
    assert "between 0 and 5, expected 0" in message
