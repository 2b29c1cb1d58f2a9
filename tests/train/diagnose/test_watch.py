"""A run says what is wrong with it: of its terms before it starts, of its losses after the first steps."""

from typing import Any, Literal

import jax.numpy as jnp
import pytest

from jdistill.losses import EmbedCosine, InfoNCE, LossConfig, Matryoshka
from jdistill.train.diagnose import Watch
from jdistill.train.diagnose.watch import STEPS
from jdistill.types import LossInputs
from tests.train.diagnose.shrinking_temperature import ShrinkingTemperature
from tests.train.test_loop import metrics
from tests.train.tiny_run import run

TERMS: dict[str, LossConfig] = {"align": EmbedCosine(teacher="big")}


class Silent(LossConfig):
    """Exactly 0 on every row."""

    kind: Literal["silent"] = "silent"

    def __call__(self, view: LossInputs) -> Any:
        return view.student.documents[:, 0] * 0.0


def test_losses_that_stay_zero_are_noticed_after_the_first_steps():
    said: list[str] = []
    watch = Watch({}, said.append)
    for step in range(2 * STEPS):
        assert bool(said) == (step >= STEPS)
        watch.losses({"a": jnp.float32(0), "b": jnp.float32(step == 2), "c": jnp.float32(1e-30)}, last=False)
    (line,) = watch.warnings
    assert said == [f"warning: {line}"]
    assert line.startswith(f"losses.a: is exactly 0 in all of the first {STEPS} steps")


def test_a_short_run_is_judged_at_its_end():
    watch = Watch({}, lambda _: None)
    watch.losses({"a": jnp.float32(0)}, last=False)
    assert watch.warnings == []
    watch.losses({"a": jnp.float32(0)}, last=True)
    assert "first 2 steps" in watch.warnings[0]


@pytest.mark.parametrize(
    ("terms", "projections", "warned"),
    [
        (TERMS, {"big": 24}, True),
        ({**TERMS, "nested": Matryoshka(loss=EmbedCosine(), dims=(8, 16), teacher="big")}, {"big": 24}, True),
        ({**TERMS, "contrast": InfoNCE()}, {"big": 24}, False),
        ({**TERMS, "small": EmbedCosine(teacher="small")}, {"big": 24}, False),  # the small one has the student's width
        (TERMS, {}, False),
    ],
)
def test_own_vectors_that_only_a_projection_sees_are_noticed(terms, projections, warned):
    said = []
    Watch(terms, said.append).student(projections, width=16)
    assert len(said) == warned
    if warned:
        assert "student's vectors (width 16)" in said[0]
        assert "out_features: 24" in said[0]


def test_a_run_through_a_projection_alone_is_warned(tmp_path, student):
    (line,) = run(tmp_path, student, terms=TERMS, steps=1, evaluate=None).warnings
    assert line.startswith("losses.align: the student's vectors")


def test_a_run_logs_and_warns(tmp_path, student, capsys):
    terms = {"align": EmbedCosine(teacher="big"), "sharp": ShrinkingTemperature(), "silent": Silent()}
    result = run(tmp_path, student, terms=terms, optimizer={"peak_lr": 0.5}, schedule={"warmup": 0})
    held, silent = result.warnings
    assert silent.startswith("losses.silent: is exactly 0")
    assert held.startswith("losses.sharp: the learned temperature has reached its min of 0.05")
    printed = capsys.readouterr().err
    assert printed.count("warning: losses.") == 2
    logged = [line for line in metrics(tmp_path) if "train/loss" in line]
    assert logged[-1]["train/temperature/sharp"] == pytest.approx(0.05)
    assert all("train/bias/sharp" in line for line in logged)
