"""The table of encoders: each architecture with its options, tiny and random, beside transformers' own module.

A new encoder gets its rows in the file of its family; a test fails without one. Every row is tried by
`test_parity.py` and `test_folders.py`, and shown by `python -m tests.student.parity`.
"""

from tests.student.encoders.cases import absolute, rotary
from tests.student.encoders.cases.base import Case

CASES: dict[str, Case] = {**absolute.CASES, **rotary.CASES}

MAIN = tuple(label for label, case in CASES.items() if not case.variant)
"""Rows on which everything is tried."""

TYPES = {case.hf["model_type"]: label for label, case in reversed(CASES.items())}
"""The first row of each `model_type`, on which is tried what files say."""

__all__ = ["CASES", "MAIN", "TYPES", "Case"]
