"""Every loss x option equals its reference, in value and gradient, also on awkward batches.

The first case of each loss is tried on every batch, its other options on those of one shape, which one program serves.
`make exhaustive` tries these on bfloat16 too, and `make parity` all on all.
"""

import pytest

from tests.losses.cases import CASES, FIRST_OF_KIND
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import difference, expected, ours

pytestmark = pytest.mark.parity

ONE_SHAPE = [
    name for name, x in INPUTS.items() if x.student.documents.shape == INPUTS["1 negative"].student.documents.shape
]
ROWS = [
    pytest.param(label, name, marks=[pytest.mark.exhaustive] * (label not in FIRST_OF_KIND and name == "bfloat16"))
    for label, case in CASES.items()
    for name in (INPUTS if label in FIRST_OF_KIND else ONE_SHAPE)
    if fits(case, INPUTS[name])
]


def test_every_case_is_tried() -> None:
    assert {row.values[0] for row in ROWS if not row.marks} == set(CASES)


@pytest.mark.parametrize(("label", "name"), ROWS)
def test_equals_the_reference(label: str, name: str) -> None:
    gap = difference(label, ours(label, name), expected(label, name))
    assert gap.value <= INPUTS[name].tolerance
    assert gap.gradient <= INPUTS[name].tolerance
