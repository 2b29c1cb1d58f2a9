import jax.numpy as jnp
import pytest
from pydantic import ValidationError

from jdistill.losses import EmbedCosine
from jdistill.losses.schedule import Ramp, at


@pytest.mark.parametrize(
    ("ramp", "values"),
    [
        (Ramp(start=1, stop=0), {0: 1, 0.25: 0.75, 1: 0}),
        (Ramp(start=0.2, stop=0.1, begin=0.2, end=0.4), {0: 0.2, 0.2: 0.2, 0.3: 0.15, 0.4: 0.1, 0.9: 0.1}),
        (Ramp(start=0, stop=3, end=1 / 3, shape="quadratic"), {0: 0, 1 / 6: 0.75, 1 / 3: 3, 0.8: 3}),
    ],
)
def test_ramps_by_hand(ramp: Ramp, values: dict[float, float]) -> None:
    for progress, value in values.items():
        assert float(at(ramp, jnp.float32(progress))) == pytest.approx(value, abs=1e-6)


def test_a_number_stays() -> None:
    assert float(at(0.3, jnp.float32(0.9))) == pytest.approx(0.3)


def test_a_ramp_takes_some_time() -> None:
    with pytest.raises(ValidationError, match=r"end 0\.3 is not after begin 0\.3"):
        Ramp(start=0, stop=1, begin=0.3, end=0.3)


def test_weights_move_on_ramps_and_are_never_below_zero() -> None:
    term = EmbedCosine.model_validate({"weight": {"start": 0, "stop": 2, "end": 0.5}})
    assert float(term.weight_at(jnp.float32(0.25))) == 1
    with pytest.raises(ValidationError, match="never below 0"):
        EmbedCosine.model_validate({"weight": {"start": 1, "stop": -1}})
