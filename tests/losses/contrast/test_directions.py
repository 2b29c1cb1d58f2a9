import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses.contrast.info_nce import check_directions, combine

LOG = {name: jnp.log(jnp.array(values)) for name, values in {"q2d": [1.0, 3.0], "d2q": [2.0, 0.5]}.items()}
"""Negatives that weigh 1 and 2 times the first row's own pair, 3 and 0.5 times the second's."""


def test_joint_counts_the_own_pair_once_for_each_direction_that_holds_it() -> None:
    np.testing.assert_allclose(combine({"q2d": LOG["q2d"], "d2q": LOG["d2q"]}, "joint"), np.log([5, 5.5]), rtol=1e-6)
    np.testing.assert_allclose(combine({"q2d": LOG["q2d"], "q2q": LOG["d2q"]}, "joint"), np.log([4, 4.5]), rtol=1e-6)


def test_per_direction_is_the_mean_of_the_losses() -> None:
    expected = [(np.log(2) + np.log(3)) / 2, (np.log(4) + np.log(1.5)) / 2]
    np.testing.assert_allclose(combine(LOG, "per_direction"), expected, rtol=1e-6)


@pytest.mark.parametrize("partition", ["joint", "per_direction"])
def test_a_row_without_negatives_costs_nothing_and_has_no_gradient(partition: str) -> None:
    def loss(x: jax.Array) -> jax.Array:
        return combine({"q2d": x}, partition).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.full(3, -jnp.inf))
    assert float(value) == 0
    assert gradient.tolist() == [0, 0, 0]


def test_check_passes_what_makes_a_loss() -> None:
    check_directions(("q2q", "q2d", "d2d"), "joint")
    check_directions(("d2q", "q2d"), "per_direction")
