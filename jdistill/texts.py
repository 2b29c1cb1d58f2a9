"""Text validity: visible characters and no lone surrogates."""

import unicodedata

_INVISIBLE_KINDS = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp"))
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters, marks and symbols without a glyph: the grapheme joiner, Hangul fillers, blank Braille."""


def is_empty(text: str) -> bool:
    """Whether a text has no visible character: only spaces, control, zero-width and formatting characters, if any."""
    return not any(map(_visible, text))


def is_whole(text: str) -> bool:
    """Whether a text has no lone surrogate (half a character), which UTF-8 and every tokenizer reject."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _visible(character: str) -> bool:
    return not (
        unicodedata.category(character) in _INVISIBLE_KINDS
        or character in _FILLERS
        or "\ufe00" <= character <= "\ufe0f"  # variation selectors
        or "\U000e0100" <= character <= "\U000e01ef"
    )
