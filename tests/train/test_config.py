"""What may stand under `train:`."""

from typing import Any

import pytest

from jdistill.config import UserError, parse
from jdistill.train import TrainConfig
from jdistill.train.optimizer import Adafactor, AdamW, Lion, Muon
from jdistill.train.schedule import Constant, Cosine, Linear, WarmupStableDecay, in_steps


@pytest.mark.parametrize("content", [{}, {"steps": 5, "epochs": 1}])
def test_exactly_one_length(content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Set exactly one"):
        parse(TrainConfig, content, where="x.yaml")


def test_half_a_step_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.warmup: is 2\.5; expected a whole number of steps"):
        parse(TrainConfig, {"steps": 5, "schedule": {"warmup": 2.5}}, where="x.yaml")


def test_length_of_a_run() -> None:
    assert TrainConfig(steps=7).total_steps(100) == 7
    assert TrainConfig(epochs=2.5).total_steps(100) == 250
    assert TrainConfig(epochs=0.001).total_steps(100) == 1


def test_a_run_has_no_more_steps_than_32_bits_count() -> None:
    for content in (
        {"steps": 2**31},
        {"steps": 1, "schedule": {"warmup": 1e300}},
        {"steps": 1, "evaluate_every": 2**62},
    ):
        with pytest.raises(UserError, match="should be less than or equal to 2147483647"):
            parse(TrainConfig, content, where="x.yaml")
    assert TrainConfig(epochs=2**30).total_steps(1) == 2**30
    with pytest.raises(UserError, match=r"train\.epochs: 1e\+300 epochs of 3 steps each exceed the maximum of 2,147"):
        TrainConfig(epochs=1e300).total_steps(3)


@pytest.mark.parametrize(("value", "steps"), [(0, 0), (1, 1), (30, 30), (0.25, 50), (0.0001, 1)])
def test_steps_or_share(value: float, steps: int) -> None:
    assert in_steps(value, 200) == steps


def test_every_field_is_described() -> None:
    models = (TrainConfig, AdamW, Adafactor, Lion, Muon, Linear, Cosine, Constant, WarmupStableDecay)
    for model in models:
        assert all(field.description for field in model.model_fields.values())
