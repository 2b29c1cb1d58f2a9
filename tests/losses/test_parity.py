"""Every loss x option x batch equals its reference, in value and gradient."""

import pytest

from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import difference, expected, ours

pytestmark = pytest.mark.parity

ROWS = [(label, name) for label, case in CASES.items() for name, inputs in INPUTS.items() if fits(case, inputs)]


@pytest.mark.parametrize(("label", "name"), ROWS)
def test_equals_the_reference(label: str, name: str) -> None:
    gap = difference(label, ours(label, name), expected(label, name))
    assert gap.value <= INPUTS[name].tolerance
    assert gap.gradient <= INPUTS[name].tolerance
