import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.losses import InfoNCE, info_nce
from tests.losses.inputs import plain
from tests.losses.measure import view


@pytest.mark.parametrize("candidates", [1, 2, 5])
def test_equal_documents_cost_the_log_of_their_number(candidates: int) -> None:
    documents = jnp.ones((candidates, 3))
    values = info_nce(jnp.ones((1, 3)), documents, jnp.array([0]), temperature=0.01)
    np.testing.assert_allclose(values, np.log(candidates), atol=2e-6)


def test_two_documents_by_hand() -> None:
    """Scores 1 and 0 at temperature 1/2: log(1 + e^-2), and 2 more for the wrong one."""
    queries, documents = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.eye(2)
    values = info_nce(queries, documents, jnp.array([0, 1]), temperature=0.5)
    np.testing.assert_allclose(values, [np.log(1 + np.exp(-2)), np.log(1 + np.exp(-2)) + 2], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.05, 1.0]))
def test_lengths_change_nothing_under_cosine(seed: int, temperature: float) -> None:
    random = np.random.default_rng(seed)
    q, c = jnp.float32(random.standard_normal((4, 6))), jnp.float32(random.standard_normal((8, 6)))
    lengths = jnp.float32(random.uniform(0.1, 10, (12, 1)))
    rows = jnp.arange(4)
    scaled = info_nce(q * lengths[:4], c * lengths[4:], rows, temperature=temperature)
    np.testing.assert_allclose(
        scaled, info_nce(q, c, rows, temperature=temperature), rtol=1e-5, atol=1e-6 / temperature
    )


def test_plain_texts_have_no_query() -> None:
    inputs = plain(queries=False)
    with pytest.raises(UserError, match="plain texts without queries"):
        InfoNCE()(view(InfoNCE(), inputs.student, inputs.teacher))
