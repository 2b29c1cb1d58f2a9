"""Triplets within a batch by hand, what mining does at its edges, and what labels are refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.losses import BatchTriplet, batch_triplet
from jdistill.losses.labels import batch_triplet as module
from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS, plain
from tests.losses.measure import view

X, LABELS = jnp.array([[0.0], [1.0], [3.0], [7.0]]), jnp.array([0, 0, 1, 1])


def mined(x: jax.Array = X, labels: jax.Array = LABELS, **options) -> jax.Array:
    return batch_triplet(x, labels, jnp.arange(len(x)), x, labels, **options)


def test_by_hand() -> None:
    """Anchors 0, 1, 3 and 7 have positives 1, 1, 4 and 4 away, and the nearest negatives 3, 2, 2 and 6 away."""
    np.testing.assert_allclose(mined(margin=1.0), [0, 0, 3, 0])
    np.testing.assert_allclose(mined(margin="soft"), np.log1p(np.exp([-2.0, -1, 2, -2])), rtol=1e-6)
    # Farther than the positive: 3, 2 and 6; of anchor 3 no negative is, so the farthest counts, 3.
    np.testing.assert_allclose(mined(mining="semi_hard", margin=1.5), [0, 0.5, 2.5, 0])
    # Triplets above 0: of 1 with 3; of 3 with 0 and with 1; none of 7. Their mean is a sum over rows by 4 / 3.
    np.testing.assert_allclose(mined(mining="all", margin=1.5), np.array([0, 0.5, 6.0, 0]) * 4 / 3, rtol=1e-6)


def test_all_triplets_are_those_of_three_loops() -> None:
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((12, 3)), random.integers(0, 3, 12)
    far = np.linalg.norm(x[:, None] - x[None], axis=-1)
    found = [
        far[a, p] - far[a, n] + 0.4
        for a, p, n in itertools.product(range(12), repeat=3)
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    positive = [value for value in found if value > 0]
    values = mined(jnp.float32(x), jnp.asarray(labels, jnp.int32), mining="all", margin=0.4)
    assert float(values.mean()) == pytest.approx(np.mean(positive), rel=1e-5)


@pytest.mark.parametrize("mining", ["hard", "semi_hard", "all"])
def test_pieces_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, mining: str) -> None:
    case = CASES[f"batch_triplet, {mining}, euclidean, margin 0.2"]
    seen = view(case, INPUTS["random"])

    def value_and_gradient() -> tuple:
        return jax.value_and_grad(
            lambda x: case.loss(seen._replace(student=seen.student._replace(queries=x, all_queries=x))).mean()
        )(seen.student.queries)

    whole = value_and_gradient()
    monkeypatch.setattr(module, "ELEMENTS", 1)
    for a, b in zip(whole, value_and_gradient(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mining", ["hard", "semi_hard", "all"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_equal_vectors_have_a_gradient_without_nan(mining: str, distance: str) -> None:
    options = {"mining": mining, "distance": distance, "margin": 1.0}
    gradient = jax.jit(jax.grad(lambda x: mined(x, **options).sum()))(jnp.ones((4, 3)))
    assert jnp.isfinite(gradient).all()


def test_plain_texts_and_queries_are_what_counts() -> None:
    case = CASES["batch_triplet"]
    texts, pairs = view(case, plain(queries=False)), view(case, plain())
    of_documents = mined(texts.student.documents, texts.labels)
    np.testing.assert_allclose(case.loss(texts), of_documents)
    np.testing.assert_allclose(case.loss(pairs), mined(pairs.student.queries, pairs.labels))


def test_rows_without_label_are_refused() -> None:
    with pytest.raises(UserError, match=r"^batch_triplet learns from the class of each row.*columns.label"):
        BatchTriplet()(view(CASES["batch_triplet"]._replace(labels=False), plain()))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "batch_triplet learns from the class of each row"),
        ({"a": 5}, "all rows have one label"),
        ({"a": 5, "b": 0}, "all rows have one label"),
        ({"a": 1, "b": 1}, "no label occurs twice"),
    ],
)
def test_labels_that_make_no_triplets_are_refused(rows: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BatchTriplet().check_labels(rows)
    BatchTriplet().check_labels({"a": 2, "b": 1})


def test_options_go_together() -> None:
    with pytest.raises(ValidationError, match="'soft' goes with mining 'hard' only, not 'all'"):
        BatchTriplet(mining="all", margin="soft")
    with pytest.raises(ValueError, match="'soft' goes with mining 'hard' only"):
        mined(mining="semi_hard", margin="soft")
    with pytest.raises(ValidationError, match="margin 5 can never be reached"):
        BatchTriplet(distance="cosine")
    assert BatchTriplet(distance="cosine", margin="soft").margin == "soft"
