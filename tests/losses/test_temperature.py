import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jdistill.losses.temperature import NAME, Learned, temperature_of, temperature_parameters


def test_a_number_is_not_learned() -> None:
    assert temperature_parameters(0.05) == {}
    assert float(temperature_of(0.05, {})) == pytest.approx(0.05)


def test_a_learned_one_starts_where_it_should() -> None:
    learned = Learned(start=0.07)
    assert float(temperature_of(learned, temperature_parameters(learned))) == pytest.approx(0.07)


@pytest.mark.parametrize(("log", "held"), [(-9.0, 0.02), (9.0, 0.5), (np.log(0.1), 0.1)])
def test_it_stays_within_its_limits_and_can_come_back(log: float, held: float) -> None:
    learned = Learned(start=0.1, min=0.02, max=0.5)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: temperature_of(learned, {NAME: x})))(jnp.float32(log))
    assert float(value) == pytest.approx(held)
    assert float(gradient) == pytest.approx(held)  # of the logarithm


def test_a_start_beyond_the_limits_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"start 0\.001 is not within min 0\.01"):
        Learned(start=0.001)
