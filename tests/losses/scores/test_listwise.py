import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import listwise_kl
from tests.losses.scores.scored import vectors

AT = {"temperature": 0.3, "teacher_temperature": 0.2}


@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "mse"])
def test_an_excluded_candidate_is_as_if_it_were_not_there(kind: str) -> None:
    student, teacher = vectors(2, (4, 5), (4, 5))
    masked = teacher.at[:, 2].set(-jnp.inf)
    kept = jnp.array([0, 1, 3, 4])

    def value(s: jax.Array, t: jax.Array, excluded_from: str) -> tuple[jax.Array, jax.Array]:
        return jax.jit(
            jax.value_and_grad(lambda s: listwise_kl(s, t, **AT, divergence=kind, excluded_from=excluded_from).sum())
        )(s)

    without, gradient = value(student[:, kept], teacher[:, kept], "both")
    both, of_both = value(student, masked, "both")
    np.testing.assert_allclose(both, without, rtol=1e-6)
    np.testing.assert_allclose(of_both[:, kept], gradient, rtol=1e-5, atol=1e-8)
    assert not of_both[:, 2].any()
    pushed = value(student, masked, "teacher")[1]
    assert (pushed[:, 2] != 0).all() if kind == "mse" else (pushed[:, 2] > 0).all()


@pytest.mark.parametrize("excluded_from", ["teacher", "both"])
@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "mse"])
def test_a_row_with_nothing_left_gives_zero_and_no_gradient(kind: str, excluded_from: str) -> None:
    student = vectors(2, (2, 5))[0]
    teacher = jnp.full((2, 5), -jnp.inf).at[0].set(1.0)
    values, gradient = jax.jit(
        jax.vmap(
            jax.value_and_grad(
                lambda s, t: listwise_kl(s[None], t[None], **AT, divergence=kind, excluded_from=excluded_from)[0]
            )
        )
    )(student, teacher)
    assert values[1] == 0
    assert not gradient[1].any()
    assert np.isfinite(gradient).all()
