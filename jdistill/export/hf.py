"""Exports a student as a folder of sentence-transformers and transformers, which replaces an earlier one atomically.

`student/hf_folder/` has the layout.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.export.config import ExportedProjection
from jdistill.export.files import replacing
from jdistill.student import Student
from jdistill.student.hf_folder import check_exportable, write_folder


def export_model(
    student: Student,
    params: Mapping[str, Any],
    folder: str | Path,
    *,
    projection: ExportedProjection = "drop",
    teacher: str | None = None,
    check: Callable[[Path], None] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Write a student as a sentence-transformers folder. Atomic: a killed export leaves the old folder or none.

    Args:
      student: the architecture, with tokenizer and prompts.
      params: its parameters, as trained.
      folder: target folder; an earlier export in it is replaced.
      projection: "drop" exports the student's own vectors; "dense" appends the projection to `teacher`'s space, so that
        the vectors can be compared with the teacher's.
      teacher: teacher whose projection "dense" exports; optional if there is only one.
      check: called with the complete temporary folder before it replaces `folder`; if it raises, an earlier export
        remains unchanged.
      origin: JSON values to record in the export's marker file.

    Returns:
      The folder.

    Raises:
      UserError: if `folder` contains files that no export wrote, there is no such projection, or a pooling cannot be
        exported.
    """
    folder = Path(folder)
    check_exportable(student.config.pooling)
    projected = projected_to(student, teacher) if projection == "dense" else None
    with replacing(folder, **(origin or {})) as fresh:
        write_folder(student, params, fresh, projection=projected)
        if check is not None:
            check(fresh)
    return folder


def projected_to(student: Student, teacher: str | None) -> str:
    """The teacher whose projection to export; `teacher` may be None if there is only one.

    Raises:
      UserError: if there is no projection, no projection to `teacher`, or `teacher` is None and there are several.
    """
    known = list(student.config.projections)
    if not known:
        raise UserError(
            "export.projection: is 'dense', but this student has no projection. Set it to 'drop' to export its own "
            "vectors."
        )
    if teacher is None and len(known) > 1:
        raise UserError(f"export.teacher: there are projections to {' and '.join(known)}. Choose one of them.")
    if teacher is not None and teacher not in known:
        raise UserError(
            f"export.teacher: there is no projection to '{teacher}', only to {' and '.join(known)}. Choose one of "
            "these, or set export.projection to 'drop'."
        )
    return teacher if teacher is not None else known[0]
