"""What losses learn is logged, and a temperature at its limit is reported once."""

from typing import Any

import numpy as np
import pytest

from jdistill.losses import LossConfig, Matryoshka
from jdistill.train.diagnose import Watch, learned_values
from jdistill.train.diagnose.temperatures import saturated
from tests.train.diagnose.shrinking_temperature import ShrinkingTemperature


@pytest.mark.parametrize(
    ("value", "limit"),
    [(0.01, "min of 0.05"), (0.05, "min of 0.05"), (0.2, "max of 0.2"), (3.0, "max of 0.2"), (0.1, "")],
)
def test_a_temperature_at_its_limit_is_noticed_once(value, limit):
    terms: dict[str, LossConfig] = {"sharp": ShrinkingTemperature()}
    learned: Any = {"sharp": {"log_temperature": np.float32(np.log(value)), "bias": np.float32(2)}}
    lines = saturated(terms, learned)
    assert [limit in line for line in lines] == [True] * bool(limit)
    watch = Watch(terms, lambda _: None)
    watch.learned(learned)
    watch.learned(learned)
    assert watch.warnings == lines
    expected = {"temperature/sharp": np.clip(value, 0.05, 0.2), "bias/sharp": 2.0}
    assert learned_values(terms, learned) == pytest.approx(expected)


def test_the_temperature_of_a_loss_inside_another_is_found():
    outer = Matryoshka.model_construct(loss=ShrinkingTemperature(), dims=(4,))
    (line,) = saturated({"nested": outer}, {"nested": {"log_temperature": np.float32(-9)}})
    assert "losses.nested.loss.temperature.min" in line
