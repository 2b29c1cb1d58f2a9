"""Validation of cell values: texts, scores, ids and labels. Strings stay strings; only scores are parsed as numbers."""

import math
from typing import Any

from jdistill.texts import is_empty, is_whole


class WrongValueError(Exception):
    """A value of the wrong kind for its column.

    Args:
      problem: what is wrong and what is expected, without location.
      empty: whether the value is missing or unusable, so that its row may be dropped.
    """

    def __init__(self, problem: str, *, empty: bool = False) -> None:
        super().__init__(problem)
        self.empty = empty


def text(value: Any) -> str:
    """Return a text with at least one visible character, unchanged.

    Raises:
      WrongValueError: if it is missing, NaN or empty, contains a lone surrogate, or is not a string.
    """
    if isinstance(value, str):
        if is_empty(value):
            raise WrongValueError(f"is {shown(value)}, expected a text", empty=True)
        if not is_whole(value):
            raise WrongValueError(f"is {shown(value)}: half a character (a lone surrogate), expected text", empty=True)
        return value
    if value is None or _is_nan(value):
        found = "has no value" if value is None else "is nan"
        raise WrongValueError(f"{found}, expected a text", empty=True)
    kind = type(value).__name__
    raise WrongValueError(f"is {shown(value)} ({kind}), expected a text. Convert the column to strings, or map another")


def title(value: Any) -> str:
    """Return a text; "" if missing.

    Raises:
      WrongValueError: if it contains a lone surrogate or is not a string.
    """
    return "" if value is None or _is_nan(value) or _blank(value) else text(value)


def number(value: Any, *, minus_infinity: bool = False) -> float:
    """Return a finite number, parsed if it is a string.

    Raises:
      WrongValueError: if it is missing, NaN, infinite (except -inf with `minus_infinity`), or not a number.
    """
    if value is None or _blank(value):
        raise WrongValueError("has no value, expected a number", empty=True)
    try:
        found = math.nan if isinstance(value, str) and "_" in value else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if math.isnan(found) or found == math.inf or (found == -math.inf and not minus_infinity):
        problem = f"is {shown(value)}, expected a finite number. Repair the row, or map another column"
        raise WrongValueError(problem, empty=_is_nan(value) or (isinstance(value, str) and value.lower() == "nan"))
    return found


def identifier(value: Any) -> str:
    """Return an id as a string: "0042" stays "0042", and the integer 42 becomes "42".

    Raises:
      WrongValueError: if it is missing or empty, contains a lone surrogate, or is neither a string nor an integer.
    """
    if isinstance(value, str) and not is_empty(value) and is_whole(value) and "\0" not in value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = "is empty" if value is None or value == "" else f"is {shown(value)} ({type(value).__name__})"
    missing = value is None or _blank(value) or (isinstance(value, str) and not is_whole(value))
    raise WrongValueError(f"{found}, expected an id: a string or a whole number", empty=missing)


def label(value: Any) -> str:
    """Return a label as a string: "no" stays "no", and 2, 2.0 and "2" become "2".

    Raises:
      WrongValueError: if it is missing or empty, contains a lone surrogate, or is neither a string nor a whole number.
    """
    whole = isinstance(value, float) and value.is_integer()  # an integer column with missing values is read as floats
    try:
        return identifier(int(value) if whole else value)
    except WrongValueError as wrong:
        nothing = value is None or _is_nan(value) or _blank(value)
        found = "has no value" if nothing else f"is {shown(value)} ({type(value).__name__})"
        problem = f"{found}, expected a label: a string or a whole number"
        raise WrongValueError(problem, empty=nothing or wrong.empty) from None


def shown(value: Any) -> str:
    """A value in at most 60 characters, with invisible characters escaped."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    written = repr(value[:100]) if isinstance(value, str | bytes) else repr(value)
    written = written if is_whole(written) else ascii(value)
    return written if len(written) <= 60 else written[:57] + "..."


def _blank(value: Any) -> bool:
    return isinstance(value, str) and is_empty(value)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
