"""Rows of text, checked one by one: whatever is wrong with the data is said before anything is computed."""

import hashlib
import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jdistill.config import UserError
from jdistill.data.config import ColumnMap, SourceConfig
from jdistill.data.files import Batch, file_batches, find_files
from jdistill.data.hub import hub_batches

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One training example: raw texts, prompts not yet applied."""

    query: str | None
    """None where the row is a plain text."""
    document: str
    negatives: tuple[str, ...]
    score: float | None


class _WrongValueError(Exception):
    def __init__(self, column: str, problem: str, *, empty: bool = False) -> None:
        super().__init__(problem)
        self.column = column
        self.empty = empty


def read_rows(name: str, source: SourceConfig) -> Iterator[Row]:
    """Stream the rows of a source, in the order of its files.

    Args:
      name: the source's name in the configuration, for messages.
      source: where the rows are.

    Raises:
      UserError: if a file or a column is missing; if a text is empty or no text, a score is no finite number, or
        rows differ in their number of negatives (naming file, row, column and value); or if there is no row at all.
    """
    kept = dropped = 0
    negatives: int | None = source.columns.keep_negatives
    for batch in _batches(name, source):
        for i in range(batch.size):
            if kept == source.limit:
                _tell_dropped(name, kept, dropped)
                return
            try:
                row = _row(source.columns, batch, i, negatives)
            except _WrongValueError as wrong:
                if wrong.empty and source.empty == "drop":
                    dropped += 1
                    continue
                raise UserError(
                    f"{batch.where}, row {batch.first + i}, column '{wrong.column}': {wrong}. "
                    + (f"Repair the row, or set data.{name}.empty: drop." if wrong.empty else "")
                ) from None
            negatives = len(row.negatives)
            kept += 1
            yield row
    if kept == 0:
        why = f"all {dropped} rows lack a text or a score" if dropped else "there are no rows"
        raise UserError(f"data.{name}: {source.path or source.dataset}: empty: {why}. Name another file or column.")
    _tell_dropped(name, kept, dropped)


def fingerprint(source: SourceConfig) -> dict[str, Any]:
    """What decides the rows of a source: its configuration and, of local files, names, sizes and sha256.

    Equal fingerprints give equal rows, unless a data set of the hub is named without a commit as its revision.
    """
    files = [] if source.path is None else find_files(source.path)
    marks = []
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        marks.append({"name": file.name, "bytes": file.stat().st_size, "sha256": digest})
    return {"source": source.model_dump(mode="json"), "files": marks}


def _batches(name: str, source: SourceConfig) -> Iterator[Batch]:
    where = f"data.{name}: "
    if source.path is None:
        yield from hub_batches(source, where=where)
        return
    try:
        files = find_files(source.path)
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    for file in files:
        yield from file_batches(file, source.columns.used, where=where)


def _tell_dropped(name: str, kept: int, dropped: int) -> None:
    if dropped:
        _log.warning("data.%s: %d rows kept, %d dropped for a missing text or score", name, kept, dropped)


def _row(columns: ColumnMap, batch: Batch, i: int, expected_negatives: int | None) -> Row:
    if columns.text is not None:
        return Row(None, _text(columns.text, batch.columns[columns.text][i]), (), None)
    assert columns.query is not None
    assert columns.document is not None
    query = _text(columns.query, batch.columns[columns.query][i])
    document = _text(columns.document, batch.columns[columns.document][i])
    score = None if columns.score is None else _score(columns.score, batch.columns[columns.score][i])
    if not columns.negatives:
        return Row(query, document, (), score)
    return Row(query, document, _negatives(columns, batch, i, expected_negatives), score)


def _text(column: str, value: Any) -> str:
    if isinstance(value, str):
        if value and not value.isspace():
            return value
        raise _WrongValueError(column, f"is {value!r}, expected a text", empty=True)
    if value is None:
        raise _WrongValueError(column, "holds no value, expected a text", empty=True)
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise _WrongValueError(
        column, f"is {shown} ({type(value).__name__}), expected a text. Convert the column to strings, or map another"
    )


def _score(column: str, value: Any) -> float:
    if value is None or value == "":
        raise _WrongValueError(column, "holds no value, expected a number", empty=True)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _WrongValueError(column, f"is {value!r}, expected a finite number. Repair the row, or map another column")
    return number


def _negatives(columns: ColumnMap, batch: Batch, i: int, expected: int | None) -> tuple[str, ...]:
    found: list[tuple[str, Any]] = []
    for column in columns.negative_columns:
        value = batch.columns[column][i]
        found += [(column, text) for text in (value if isinstance(value, list) else [value])]
    texts = [_text(column, value) for column, value in found[: columns.keep_negatives]]
    column = columns.negative_columns[-1]
    if not texts:
        raise _WrongValueError(column, "holds no negatives, expected at least one", empty=True)
    if expected is not None and len(texts) < expected:
        raise _WrongValueError(column, f"holds {len(texts)} negatives, expected {expected} in every row", empty=True)
    if expected is not None and len(texts) > expected:
        raise _WrongValueError(
            column,
            f"holds {len(texts)} negatives, but the rows before hold {expected}. "
            f"Set columns.keep_negatives: {expected} to keep the first {expected} of each row",
        )
    return tuple(texts)
