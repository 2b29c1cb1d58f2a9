"""What data these losses refuse."""

import pytest

from jdistill.config import UserError
from jdistill.losses import AnglE, CoSENT, CosineSimilarity, LossConfig, Triplet
from tests.losses.cases import Case
from tests.losses.inputs import plain
from tests.losses.measure import view

SCORED = [CoSENT(), AnglE(), CosineSimilarity()]


def refused(term: LossConfig, given) -> str:
    with pytest.raises(UserError) as error:
        term(given)
    return str(error.value)


@pytest.mark.parametrize("term", [*SCORED, Triplet()], ids=lambda t: t.kind)
def test_plain_texts_are_refused(term: LossConfig) -> None:
    message = refused(term, view(Case(term, lambda _: None, scores="pair"), plain(queries=False, negatives=1)))
    assert message.startswith(term.kind)
    assert "data.<source>.columns" in message


@pytest.mark.parametrize("term", SCORED, ids=lambda t: t.kind)
def test_rows_without_scores_are_refused(term: LossConfig) -> None:
    assert "data.<source>.columns.score" in refused(term, view(Case(term, lambda _: None), plain()))


@pytest.mark.parametrize("term", SCORED, ids=lambda t: t.kind)
def test_rows_with_several_scores_are_refused(term: LossConfig) -> None:
    given = view(Case(term, lambda _: None, scores="documents"), plain(negatives=2))
    assert "3 each" in refused(term, given)


def test_triplets_need_hard_negatives() -> None:
    message = refused(Triplet(), view(Case(Triplet(), lambda _: None), plain()))
    assert "data.<source>.columns.negatives" in message
