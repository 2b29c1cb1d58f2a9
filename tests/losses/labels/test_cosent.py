"""CoSENT against the sum over all pairs of pairs, formed, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.losses import CoSENT, cosent
from tests.losses.cases import Case
from tests.losses.inputs import plain
from tests.losses.measure import view

TERM = Case(CoSENT(), lambda _: None, scores="pair")
compiled = jax.jit(cosent, static_argnames="temperature")


def batch(seed: int, rows: int = 40, levels: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, documents and labels, most of which are equal to others."""
    random = np.random.default_rng(seed)
    q, d = np.float32(random.standard_normal((2, rows, 6)))
    return q, d, np.float32(random.integers(0, levels, rows)) / levels


def direct(q: np.ndarray, d: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    q, d = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.float64(q), np.float64(d)))
    s = (q * d).sum(axis=1)
    pairs = labels[:, None] > labels[None, :]
    return float(np.log1p(np.exp((s[None, :] - s[:, None]) / temperature)[pairs].sum()))


def test_by_hand() -> None:
    """Cosines 0, 1, 1 of labels 2, 1, 1: the first should be above both others, which are not compared."""
    q, d = jnp.eye(3)[:2], jnp.eye(3)
    queries, documents = jnp.stack([q[0], q[1], q[1]]), jnp.stack([d[1], d[1], d[1]])
    value = cosent(queries, documents, jnp.array([2.0, 1.0, 1.0]), temperature=0.5)
    assert float(value) == pytest.approx(np.log(1 + 2 * np.exp(2)), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_sorted_sums_are_the_sum_over_all_pairs(temperature: float, levels: int) -> None:
    q, d, labels = batch(levels, levels=levels)
    ours = compiled(q, d, labels, temperature=temperature)
    assert float(ours) == pytest.approx(direct(q, d, labels, temperature), rel=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("temperature", [0.01, 0.05])
def test_gradient_with_ties_is_that_of_sentence_transformers(temperature: float) -> None:
    import torch
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    q, d, labels = batch(0)
    theirs = [torch.tensor(np.float64(x), requires_grad=True) for x in (q, d)]
    value = CoSENTLoss(None, scale=1 / temperature).compute_loss_from_embeddings(theirs, torch.tensor(labels))
    value.backward()
    ours, gradient = jax.jit(
        jax.value_and_grad(lambda q, d: cosent(q, d, jnp.asarray(labels), temperature=temperature), argnums=(0, 1))
    )(jnp.asarray(q), jnp.asarray(d))
    assert float(ours) == pytest.approx(value.item(), rel=1e-6)
    for mine, x in zip(gradient, theirs, strict=True):
        # Of each vector by itself, down to a millionth of the largest: they are up to 30 powers of ten apart, and the
        # smallest come from exponents near 100, which float32 rounds by 4e-6.
        longest = np.abs(x.grad.numpy()).max(axis=1, keepdims=True)
        longest = np.maximum(longest, 1e-6 * longest.max())
        np.testing.assert_allclose(mine / longest, x.grad.numpy() / longest, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_order_of_rows_length_of_vectors_and_scale_of_labels_do_not_matter(seed: int) -> None:
    q, d, labels = batch(seed)
    random = np.random.default_rng(seed)
    order, length = random.permutation(len(q)), np.float32(random.uniform(0.1, 10, (len(q), 1)))
    value = compiled(q, d, labels)
    changed = compiled((q * length)[order], d[order], np.exp(3 * labels)[order])
    assert float(changed) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("rows", [1, 7])
def test_equal_labels_ask_for_nothing(rows: int) -> None:
    q, d, _ = batch(0, rows=rows)
    value, gradient = jax.jit(jax.value_and_grad(lambda q: cosent(q, jnp.asarray(d), jnp.ones(rows))))(jnp.asarray(q))
    assert value == 0
    assert not gradient.any()


def test_a_violation_far_beyond_the_range_of_exp_is_finite() -> None:
    q, labels = jnp.eye(2), jnp.array([1.0, 0.0])
    d = jnp.array([[-1.0, 0.0], [0.0, 1.0]])
    value, gradient = jax.jit(jax.value_and_grad(lambda q: cosent(q, d, labels, temperature=1e-3)))(q)
    assert float(value) == pytest.approx(2000)
    assert np.isfinite(gradient).all()


def test_no_matrix_of_pairs_is_formed() -> None:
    n = 512
    x, labels = jnp.ones((n, 4)), jnp.arange(n, dtype=jnp.float32)
    program = jax.jit(jax.grad(lambda x: cosent(x, x, labels))).lower(x).compile()
    assert program.memory_analysis().temp_size_in_bytes < n * n


def test_every_row_has_the_value_of_the_batch_and_negatives_are_not_looked_at() -> None:
    inputs = plain(negatives=2)
    values = TERM.loss(view(TERM, inputs))
    q, d = map(jnp.asarray, (inputs.student.queries, inputs.student.documents[:, 0]))
    np.testing.assert_allclose(values, np.full(16, cosent(q, d, jnp.asarray(inputs.scores[:, 0]))), rtol=1e-6)


def test_options_change_the_value() -> None:
    given = view(TERM, plain())
    values = [float(t(given)[0]) for t in (CoSENT(), CoSENT(temperature=0.1), CoSENT(similarity="dot"))]
    assert len(set(values)) == 3


def test_a_batch_without_an_order_is_reported() -> None:
    assert "score 0.5" in CoSENT().check_targets(None, jnp.full((4, 1), 0.5))[0]
    assert not CoSENT().check_targets(None, jnp.array([[0.5], [0.6]]))
    assert not CoSENT().check_targets(None, None)
