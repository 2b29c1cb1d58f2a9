"""The plainest case of each loss equals its reference when compiled exactly as users do, on one device and on eight.

All other tests of losses compile with little effort, and XLA's optimiser rounds, fuses and gets wrong what they cannot
see.
"""

import pytest

from tests.losses.cases import CASES, FIRST_OF_KIND
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import difference, expected, ours
from tests.parallel.sharded import sharded

pytestmark = [pytest.mark.parity, pytest.mark.optimized]

TELLING = ("7 negatives", "1 negative", "random", "plain texts")
"""The widest batch comes first."""


def batch_of(label: str) -> str:
    return next(name for name in TELLING if fits(CASES[label], INPUTS[name]))


@pytest.mark.parametrize(
    "label",
    [pytest.param(x, marks=[pytest.mark.slow] * (CASES[x].loss.kind == "adaptive_layer")) for x in FIRST_OF_KIND],
)
@pytest.mark.parametrize("devices", [1, 8])
def test_equals_the_reference(label: str, devices: int) -> None:
    name = batch_of(label)
    found = ours(label, name, optimized=True) if devices == 1 else sharded(label, name, devices, optimized=True)
    gap = difference(label, found, expected(label, name))
    assert gap.value <= INPUTS[name].tolerance
    assert gap.gradient <= INPUTS[name].tolerance
