import math
from decimal import Decimal

import pytest

from jdistill.data.values import WrongValueError, identifier, number, text, title


@pytest.mark.parametrize("value", ["a", " a\n", "\u200ba", "0042", "NaN", "null", "\U0001f600", "a\0"])
def test_texts_stay_as_they_are(value):
    assert text(value) == value


@pytest.mark.parametrize(
    ("read", "value", "message", "empty"),
    [
        (text, "", "is '', expected a text", True),
        (text, "\u200b\ufeff\u00ad", "expected a text", True),
        (text, "\0\x07", "expected a text", True),
        (text, "\u3164", "expected a text", True),
        (text, None, "has no value", True),
        (text, math.nan, "is nan", True),
        (text, "a \ud83d", "half a character", True),
        (text, 7, r"is 7 \(int\), expected a text", False),
        (text, b"a", r"is b'a' \(bytes\)", False),
        (title, 7, r"is 7 \(int\), expected a text", False),
        (number, "", "has no value", True),
        (number, None, "has no value", True),
        (number, math.nan, "is nan, expected a finite", True),
        (number, "nan", "is 'nan', expected a finite", True),
        (number, "1_0", "is '1_0', expected a finite", False),
        (number, "inf", "is 'inf', expected a finite", False),
        (number, -math.inf, "is -inf, expected a finite", False),
        (number, 10**400, "is an integer of 1329 bits, expected a finite", False),
        (number, [1], r"is \[1\], expected a finite", False),
        (identifier, None, "is empty, expected an id", True),
        (identifier, "", "is empty, expected an id", True),
        (identifier, 1.0, r"is 1.0 \(float\), expected an id", False),
        (identifier, True, r"is True \(bool\), expected an id", False),
        (identifier, "a\ud83d", "expected an id", True),
    ],
)
def test_what_is_refused_and_what_counts_as_empty(read, value, message, empty):
    with pytest.raises(WrongValueError, match=message) as caught:
        read(value)
    assert caught.value.empty is empty
    assert str(caught.value).isprintable()


def test_numbers_titles_and_ids():
    assert [number(value) for value in ("0.5", " 2 ", 3, Decimal("0.25"), True)] == [0.5, 2.0, 3.0, 0.25, 1.0]
    assert number(-math.inf, minus_infinity=True) == -math.inf
    assert [title(value) for value in (None, "", math.nan, "a")] == ["", "", "", "a"]
    assert [identifier(value) for value in ("0042", 42, " a")] == ["0042", "42", " a"]
