"""Mega-batch margin by hand, beside the peer in pieces, and in pieces of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.losses import MegaBatchMargin, mega_batch_margin
from jdistill.losses.contrast import mega_batch_margin as module
from tests.losses.cases import CASES
from tests.losses.inputs import plain
from tests.losses.measure import view


def angles(*degrees: float) -> jax.Array:
    return jnp.stack([jnp.array([np.cos(x), np.sin(x)], jnp.float32) for x in np.radians(degrees)])


def test_by_hand() -> None:
    """Queries at 0 and 90 degrees, documents at 60 and 90: own cosines 0.5 and 1, the other's 0 and 0.87."""
    values = mega_batch_margin(angles(0, 90), angles(60, 90), jnp.arange(2))
    np.testing.assert_allclose(values, [0.3, 0.75**0.5 - 0.3], atol=1e-6)


@pytest.mark.parity
def test_value_and_gradient_are_those_of_the_peer_in_mini_batches() -> None:
    import torch
    from sentence_transformers.sentence_transformer.losses import MegaBatchMarginLoss

    given = plain().student
    theirs = [torch.tensor(np.float64(x), requires_grad=True) for x in (given.queries, given.documents[:, 0])]
    model = torch.nn.ModuleList([torch.nn.Identity()])
    peer = MegaBatchMarginLoss(model, use_mini_batched_version=True, mini_batch_size=5)
    value = peer.calculate_loss([[theirs[0]], [theirs[1]]], with_backward=True)
    ours, gradient = jax.value_and_grad(lambda q, d: mega_batch_margin(q, d, jnp.arange(16)).mean(), argnums=(0, 1))(
        jnp.asarray(given.queries), jnp.asarray(given.documents[:, 0])
    )
    assert float(ours) == pytest.approx(value.item(), rel=1e-6)
    for mine, x in zip(gradient, theirs, strict=True):
        np.testing.assert_allclose(mine, x.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_pieces_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["mega_batch_margin"]
    seen = view(case, plain(negatives=7))
    whole = case.loss(seen)
    monkeypatch.setattr(module, "ROWS", 5)
    np.testing.assert_allclose(case.loss(seen), whole, rtol=1e-6)


def test_one_pair_has_no_negative() -> None:
    x = angles(10)
    assert mega_batch_margin(x, x, jnp.arange(1)).tolist() == [0]
    gradient = jax.grad(lambda q: mega_batch_margin(q, x, jnp.arange(1), positive_margin=2.0).sum())(angles(40))
    assert jnp.isfinite(gradient).all()
    assert gradient.any()


def test_plain_texts_are_refused() -> None:
    with pytest.raises(UserError, match=r"mega_batch_margin .*plain texts without queries"):
        MegaBatchMargin()(view(CASES["mega_batch_margin"], plain(queries=False)))
