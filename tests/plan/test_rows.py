"""How texts of a planned batch lie in the encoder's rows."""

from jdistill.plan import RowForm, Shared, SharedRows


def test_texts_with_rows_of_their_own():
    form = RowForm(16, 32, 3, 0)
    assert form.sides == ((1, SharedRows(16, 1)), (3, SharedRows(32, 3)))
    assert (form.tokens, form.lengths, form.texts, form.multiple) == (16 + 3 * 32, (16, 32), 4, 1)
    assert RowForm(0, 32, 1, 0).sides == ((1, SharedRows(32, 1)),)


def test_texts_that_share_rows():
    form = RowForm(16, 32, 3, 0).folded(32, 64)
    assert form.shared == Shared(SharedRows(32, 0.5), SharedRows(64, 1.5), 2)
    assert (form.tokens, form.lengths, form.texts, form.multiple) == (16 + 3 * 32, (32, 64), 4, 2)
    plain = RowForm(0, 32, 1, 0).packed(128, 0, 0.2)
    assert plain.shared == Shared(None, SharedRows(128, 0.2), 1)
    assert (plain.tokens, plain.lengths, plain.texts) == (0.2 * 128, (128,), 1)


def test_a_piece_has_whole_rows():
    assert SharedRows(128, 0.1).of_piece(64) == 7
    assert SharedRows(128, 7 / 25).of_piece(25) == 7  # and not 8 by rounding
    assert SharedRows(128, 0.001).of_piece(1) == 1
