"""Refusals: a store whose teacher is not the one that the configuration asks for."""

from collections.abc import Mapping
from typing import Any

from jdistill.config import UserError
from jdistill.store.files import as_stored, differences
from jdistill.store.reader import Store


def check_teacher(store: Store, name: str, expected: Mapping[str, Any]) -> None:
    """Refuse a teacher that is missing, incomplete or made differently; for use before any device work.

    Args:
      store: an open store.
      name: the teacher's name.
      expected: fields of the description that the configuration fixes. A field that either side leaves out is not
        compared, and model and revision are not where the hash of the weights is equal.

    Raises:
      UserError: naming each differing field with both values.
    """
    require_description(store, name, store.teacher(name).manifest["description"], expected)


def check_width(store: Store, name: str, student_width: int) -> None:
    """Refuse a teacher whose vectors a student without projection cannot be compared with.

    Raises:
      UserError: if the widths differ.
    """
    width = store.teacher(name).width
    if width != student_width:
        raise UserError(
            f"store at {store.path}: teacher '{name}' has width {width}, but the student's width is "
            f"{student_width} and student.projection is 'none'. Set student.projection: linear, or use score losses."
        )


def require_description(store: Store, name: str, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a description that differs from the stored one in a field that both have.

    Raises:
      UserError: naming each differing field with both values.
    """
    expected = as_stored(expected)
    if "weight_hash" in stored and stored["weight_hash"] == expected.get("weight_hash"):
        expected = {key: value for key, value in expected.items() if key not in ("model", "revision")}
    changed = differences(stored, expected)
    if changed:
        raise UserError(
            f"store at {store.path}: the vectors of teacher '{name}' were made differently: {'; '.join(changed)}. "
            f"Set it as it is there, or give the teacher another name, or another store, and run `jdistill embed`."
        )
