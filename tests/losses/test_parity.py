"""Every loss x option x batch equals its reference, in value and gradient."""

import pytest

from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import difference, expected, ours

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("batch", INPUTS)
@pytest.mark.parametrize("label", CASES)
def test_equals_the_reference(label: str, batch: str) -> None:
    case, inputs = CASES[label], INPUTS[batch]
    if not fits(case, inputs):
        pytest.skip("needs queries")
    gap = difference(label, ours(batch)[label], expected(label, batch))
    assert gap.value <= inputs.tolerance
    assert gap.gradient <= inputs.tolerance
