import pytest

from jdistill.texts import is_empty, is_whole


@pytest.mark.parametrize(
    "text", ["", " \t\n", "\0", "\u200b\u200d", "\ufeff", "\u2060\ufe0f", "\u2800", "\u00ad", "\u202e"]
)
def test_nothing_to_be_seen(text):
    assert is_empty(text)
    assert not is_empty(text + "a")


@pytest.mark.parametrize("text", ["a", ".", "\u0301", "\U0001f600", "\u200b中"])
def test_something_to_be_seen(text):
    assert not is_empty(text)


def test_halves_of_characters():
    assert is_whole("\U0001f600")
    assert not is_whole("a\ud83d")
