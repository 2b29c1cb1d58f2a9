import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.losses import L1, Flops, flops, l1
from jdistill.losses.schedule import Ramp
from tests.losses.cases import Case
from tests.losses.inputs import plain
from tests.losses.measure import view


def sparse(seed: int, n: int = 12, d: int = 20) -> np.ndarray:
    """As a sparse encoder gives them: not negative, and a different number of them active in each row."""
    random = np.random.default_rng(seed)
    active = random.uniform(size=(n, d)) < np.linspace(0, 0.8, n)[:, None]
    return np.float32(random.uniform(0.1, 2, (n, d)) * active)


def whole(x: jax.Array, threshold: int | None = None) -> jax.Array:
    return flops(x[:, None], x, threshold=threshold).mean()


def test_by_hand() -> None:
    x = jnp.array([[1.0, 0.0, 0.0], [1.0, -3.0, 2.0]])  # mean sizes 1, 1.5, 1
    np.testing.assert_allclose(flops(x[:, None], x), [1, 1 + 4.5 + 2])
    assert l1(x[:, None]).tolist() == [1, 6]
    np.testing.assert_allclose(flops(x[:, None], x, threshold=1), [0, 0.5 + 4.5 + 2])  # still two rows in the mean
    assert l1(x[:, None], threshold=1).tolist() == [0, 6]
    assert l1(x[:, None], threshold=3).tolist() == [0, 0]
    assert l1(x[None]).tolist() == [3.5]


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [None, 0, 1, 5, 12, 20])
def test_sparse_vectors_as_in_sentence_transformers(threshold: int | None) -> None:
    """Value and gradient, also that of the elements that are zero."""
    import torch
    from sentence_transformers.sparse_encoder.losses import FlopsLoss

    x = sparse(0)
    theirs = torch.tensor(np.float64(x), requires_grad=True)
    expected = FlopsLoss(None, threshold).compute_loss_from_embeddings(theirs)
    expected.backward()
    value, gradient = jax.jit(jax.value_and_grad(whole), static_argnums=1)(jnp.asarray(x), threshold)
    assert float(value) == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-5, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_signs_and_order_do_not_matter_and_flops_favours_rare_elements(seed: int) -> None:
    x = sparse(seed)
    random = np.random.default_rng(seed)
    signed = (x * random.choice([-1, 1], x.shape).astype(np.float32))[random.permutation(len(x))]
    for loss in (whole, lambda x: l1(x[:, None]).mean()):
        assert float(loss(jnp.asarray(signed))) == pytest.approx(float(loss(jnp.asarray(x))), rel=1e-5)
    # The same elements of each row in places of their own cost less to compare, not less in sum.
    apart = np.stack([np.roll(row, i) for i, row in enumerate(np.tile(x[-1:], (len(x), 1)))])
    together = np.tile(x[-1:], (len(x), 1))
    assert float(whole(jnp.asarray(apart))) <= float(whole(jnp.asarray(together))) * (1 + 1e-6)
    assert float(l1(jnp.asarray(apart)[:, None]).mean()) == pytest.approx(float(x[-1].sum()), rel=1e-5)


@pytest.mark.parametrize("term", [Flops, L1])
def test_texts_are_those_chosen(term: type) -> None:
    inputs = plain(negatives=2)
    q, d = map(jnp.asarray, inputs.student)
    means = {}
    for texts, x in (("queries", q[:, None]), ("documents", d), ("all", jnp.concatenate([q[:, None], d], axis=1))):
        case = Case(term(texts=texts), lambda _: None)
        means[texts] = float(case.loss(view(case, inputs)).mean())
        flat = x.reshape(-1, x.shape[-1])
        expected = jnp.square(jnp.abs(flat).mean(axis=0)).sum() if term is Flops else jnp.abs(flat).sum(axis=1).mean()
        assert means[texts] == pytest.approx(float(expected), rel=1e-5)
    assert len(set(means.values())) == 3


@pytest.mark.parametrize("term", [Flops(texts="queries"), L1(texts="queries")])
def test_plain_texts_have_no_queries(term: Flops | L1) -> None:
    case = Case(term, lambda _: None)
    with pytest.raises(UserError, match=f"{term.kind} with texts 'queries'.*data.<source>.columns"):
        term(view(case, plain(queries=False)))


def test_weight_rises_with_the_square_of_the_first_third() -> None:
    term = Flops(weight=3e-5)
    shares = [float(term.weight_at(jnp.float32(p))) / 3e-5 for p in (0, 1 / 6, 1 / 3, 0.5, 1)]
    assert shares == pytest.approx([0, 0.25, 1, 1, 1], abs=1e-6)
    assert float(Flops(weight=2.0, warmup=0).weight_at(jnp.float32(0))) == 2
    assert float(L1(warmup=1).weight_at(jnp.float32(0.5))) == 0.25
    assert float(L1(weight=Ramp(start=2, stop=0), warmup=1).weight_at(jnp.float32(0.5))) == 0.25


def test_value_is_that_before_any_weight() -> None:
    terms = [Case(Flops(weight=w), lambda _: None) for w in (1, 5)]
    values = [term.loss(view(term, plain())) for term in terms]
    np.testing.assert_array_equal(*values)
