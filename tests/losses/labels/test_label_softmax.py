"""The classifier over pairs: by hand, at prefixes, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.losses import LabelSoftmax, Matryoshka, label_softmax
from tests.losses.cases import CASES, CLASSES, WIDTH
from tests.losses.inputs import plain
from tests.losses.measure import learned, view

CASE = CASES["label_softmax"]


def test_by_hand() -> None:
    """u = (1, -2), v = (3, 0): the difference is (2, 2), the product (3, 0)."""
    u, v, bias = jnp.array([[1.0, -2.0]]), jnp.array([[3.0, 0.0]]), jnp.array([0.5, 0.0])
    kernel = jnp.arange(8.0).reshape(2, 2, 2)  # class 0: 0, 2 | 4, 6; class 1: 1, 3 | 5, 7
    logits = np.array([2 * 0 + 2 * 2 + 3 * 4 + 0.5, 2 * 1 + 2 * 3 + 3 * 5])
    value = label_softmax(u, v, jnp.array([1]), kernel, bias, features=("difference", "product"))
    assert float(value[0]) == pytest.approx(np.log(np.exp(logits - logits[1]).sum()), rel=1e-5)


@pytest.mark.parametrize("size", [30, 600])
def test_large_logits_keep_their_digits(size: float) -> None:
    """A label that is right by 4, or wrong by 4, beside logits of 30 and 600."""
    logits = np.array([size, size - 4.0, -size])
    kernel = jnp.asarray(logits, jnp.float32).reshape(1, 1, 3)
    one, labels = jnp.ones((3, 1)), jnp.arange(3)
    values = label_softmax(one, one, labels, kernel, jnp.zeros(3), features=("product",))
    expected = [np.log1p(np.exp(-4)), np.log1p(np.exp(4)), 2 * size + np.log1p(np.exp(-4))]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_the_order_of_features_does_not_matter() -> None:
    seen = view(CASE, plain())
    given = seen.student.queries, seen.student.documents, seen.labels, seen.parameters["kernel"], jnp.zeros(CLASSES)
    np.testing.assert_array_equal(
        label_softmax(*given, features=("difference", "vectors")),
        label_softmax(*given, features=("vectors", "difference")),
    )


def test_every_label_is_equally_likely_at_first_and_the_classifier_learns() -> None:
    seen = view(CASE, plain())._replace(parameters=CASE.loss.parameters())
    np.testing.assert_allclose(CASE.loss(seen), np.log(CLASSES), rtol=1e-6)
    gradient = jax.grad(lambda p: CASE.loss(seen._replace(parameters=p)).mean())(seen.parameters)
    assert gradient["kernel"].any()
    assert gradient["bias"].any()


def test_a_prefix_uses_the_first_rows_of_every_matrix() -> None:
    seen = view(CASE, plain())
    kernel, bias = learned(CASE)["kernel"], seen.parameters["bias"]
    q, d = (x[:, :4] / jnp.linalg.norm(x[:, :4], axis=1, keepdims=True) for x in seen.student[:2])
    expected = label_softmax(q, d, seen.labels, kernel[:, :4], bias)
    np.testing.assert_allclose(Matryoshka(loss=CASE.loss, dims=(4,))(seen), expected, rtol=1e-5)


def test_what_it_cannot_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"^label_softmax learns from the class of each row"):
        CASE.loss(view(CASE._replace(labels=False), plain()))
    narrow = LabelSoftmax(classes=CLASSES, width=WIDTH - 1)
    with pytest.raises(UserError, match=rf"width is {WIDTH - 1}, but .* {WIDTH} elements. Set it to {WIDTH}\."):
        narrow(view(CASE, plain())._replace(parameters=narrow.parameters()))


def test_labels_are_counted() -> None:
    term = Matryoshka(loss=LabelSoftmax(classes=2, width=4), dims=(4,))
    term.check_labels({"no": 3, "yes": 0})
    with pytest.raises(UserError, match=r"classes is 2, but the rows have 3 labels: -1, 0, 1.* Set it to 3"):
        term.check_labels({"-1": 1, "0": 1, "1": 1})
    with pytest.raises(UserError, match="learns from the class"):
        term.check_labels({})


@pytest.mark.parametrize("options", [{"classes": 1}, {"features": ()}, {"features": ("vectors", "vectors")}])
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(ValidationError):
        LabelSoftmax(**{"classes": 3, "width": 4, **options})
