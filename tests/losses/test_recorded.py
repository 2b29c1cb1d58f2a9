"""A case of each loss gives the value and the gradient that were recorded from torch, also where there is no torch."""

import pytest

from tests.losses.cases import FIRST_OF_KIND
from tests.losses.measure import difference, ours
from tests.losses.recorded import batches_of, is_recorded, recorded, reduced, tolerance

ROWS = [(label, name) for label in FIRST_OF_KIND for name in batches_of(label)[:1] if is_recorded(label, name)]


@pytest.mark.parametrize(("label", "name"), ROWS)
def test_equals_what_was_recorded(label: str, name: str) -> None:
    gap = difference(label, reduced(ours(label, name)), recorded(label, name), recorded)
    assert gap.value <= tolerance(name)
    assert gap.gradient <= tolerance(name)
