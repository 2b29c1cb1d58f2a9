"""Checks that a store's teacher is the one the config asks for."""

from collections.abc import Mapping
from typing import Any

from jdistill.config import UserError
from jdistill.store.files import as_stored, differences
from jdistill.store.reader import Store


def check_teacher(store: Store, name: str, expected: Mapping[str, Any]) -> None:
    """Refuse a teacher that is missing, incomplete or has other settings.

    Args:
      store: an open store.
      name: the teacher's name.
      expected: the description's fields that the config determines. Only fields present on both sides are compared;
        model and revision are skipped if the weights have the same hash.

    Raises:
      UserError: naming each differing field with both values.
    """
    require_description(store, name, store.teacher(name).manifest["description"], expected)


def check_width(store: Store, name: str, student_width: int) -> None:
    """Refuse a teacher whose width differs from that of a student without projection.

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
            f"store at {store.path}: the vectors of teacher '{name}' have other settings: {'; '.join(changed)}. Use "
            "the stored settings, or choose another teacher name or store and run `jdistill embed`."
        )
