"""The table of losses: every loss, with each of its options, beside an independent reference.

A reference is torch in float64, from sentence-transformers where it has the loss, else written out from the source. It
returns the loss of the whole batch; torch differentiates it. A new loss gets its rows in the file of its kind; a
contract test fails without one.
"""

from tests.losses.cases import contrast, embedding, groups, labels, nested, regularise, scores
from tests.losses.cases.base import CLASSES, SECOND, TEACHER, WIDTH, Case, Given, Texts

CASES: dict[str, Case] = {
    **embedding.CASES,
    **contrast.CASES,
    **scores.CASES,
    **labels.CASES,
    **groups.CASES,
    **regularise.CASES,
    **nested.CASES,
}

FIRST_OF_KIND = tuple({case.loss.kind: label for label, case in reversed(CASES.items())}.values())
"""The plainest case of each loss, which the tests try on more than the others; `make parity` tries all on all."""

__all__ = ["CASES", "CLASSES", "FIRST_OF_KIND", "SECOND", "TEACHER", "WIDTH", "Case", "Given", "Texts"]
