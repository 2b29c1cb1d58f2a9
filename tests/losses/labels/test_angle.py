import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.losses import AnglE, angle, cosent
from jdistill.losses.labels.angle import angle_similarity
from tests.losses.cases import Case
from tests.losses.inputs import plain
from tests.losses.measure import view


def vectors(seed: int, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.float32(np.random.default_rng(seed).standard_normal((2, rows, width)))
    return a, b


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(compiled(a, b))


compiled = jax.jit(angle_similarity)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_similarity_is_that_of_complex_vectors(seed: int, half: int) -> None:
    a, b = vectors(seed, 3, 2 * half)
    x, y = (np.float64(v[:, :half]) + 1j * np.float64(v[:, half:]) for v in (a, b))
    z = (x * y.conj()).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(similarity(a, b), np.abs(z.real + z.imag), rtol=1e-5, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("width", [1, 5, 8, 33])
def test_similarity_and_gradient_at_any_width(width: int) -> None:
    import torch
    from sentence_transformers.util import pairwise_angle_sim

    a, b = vectors(width, 20, width)
    a[3], b[4] = 0, 0
    theirs = torch.tensor(np.float64(a), requires_grad=True)
    value = pairwise_angle_sim(theirs, torch.tensor(np.float64(b)))
    value.sum().backward()
    np.testing.assert_allclose(similarity(a, b), value.detach().numpy(), rtol=1e-6, atol=1e-7)
    ours = jax.jit(jax.grad(lambda a: angle_similarity(a, jnp.asarray(b)).sum()))(jnp.asarray(a))
    np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=2e-5, atol=2e-6)


def test_by_hand() -> None:
    """(1, 0) is the number 1, (0, 1) is i: alike with itself 1, i with 1 alike |0 + 1|, 1 with i |0 - 1|."""
    one, i = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    diagonal = (one + i) / 2**0.5
    assert [float(similarity(x, y)[0]) for x, y in ((one, one), (one, i), (i, one))] == [1, 1, 1]
    assert float(similarity(diagonal, one)[0]) == pytest.approx(2**0.5)  # 45 degrees ahead: no cosine sees this


def test_hard_negatives_are_pairs_of_the_opposite_label() -> None:
    term = Case(AnglE(), lambda _: None, scores="pair")
    inputs = plain(negatives=2)
    q, d = map(jnp.asarray, inputs.student)
    y = jnp.asarray(inputs.scores[:, 0])
    by_hand = angle(
        jnp.concatenate([q, q, q]), jnp.concatenate([d[:, 0], d[:, 1], d[:, 2]]), jnp.concatenate([y, 1 - y, 1 - y])
    )
    np.testing.assert_allclose(term.loss(view(term, inputs)), np.full(16, by_hand), rtol=1e-6)


def test_it_is_not_cosent() -> None:
    a, b = map(jnp.asarray, vectors(0, 8, 6))
    labels = jnp.arange(8, dtype=jnp.float32)
    assert abs(float(angle(a, b, labels) - cosent(a, b, labels))) > 0.1
    assert abs(float(angle(a, b, labels) - angle(b, a, labels))) > 0.1
    assert abs(float(angle(a, b, labels) - angle(a, b, labels, temperature=0.1))) > 0.1


def test_labels_of_one_without_negatives_leave_nothing_to_learn_and_with_them_are_the_default() -> None:
    labelled, bare = Case(AnglE(), lambda _: None, scores="pair"), Case(AnglE(), lambda _: None)
    ones = [x._replace(scores=np.ones_like(x.scores)) for x in (plain(), plain(negatives=1))]
    assert not labelled.loss(view(labelled, ones[0])).any()
    np.testing.assert_array_equal(labelled.loss(view(labelled, ones[1])), bare.loss(view(bare, ones[1])))
