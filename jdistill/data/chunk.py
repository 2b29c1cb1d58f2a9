"""Batches of consecutive rows of a file, by column, with their row and line numbers."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jdistill.config import UserError

CHUNK_ROWS = 8192
_BATCH_BYTES = 1 << 26


class Chunk(NamedTuple):
    """Consecutive rows, by column."""

    where: str
    """File or data set, for messages."""
    first: int
    """Number of the first row, counted from 1 without header and blank lines."""
    columns: dict[str, list[Any]]
    """Column -> one value per row; None if missing."""
    lines: Sequence[int] | None = None
    """For text files, the line on which each row begins, counted from 1."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def place(self, i: int) -> str:
        """Location of the chunk's row `i`, for messages."""
        return place(self.where, self.first + i, None if self.lines is None else self.lines[i])


class ParsedRow(NamedTuple):
    """One row of a text file."""

    line: int
    """Line on which it begins."""
    bytes: int
    """Its length in the file."""
    values: Sequence[Any]
    """One value per column read."""


def place(where: str, row: int, line: int | None = None) -> str:
    """`where, row 3 (line 5)`; the line is omitted if it equals the row."""
    return f"{where}, row {row}" + (f" (line {line})" if line not in (None, row) else "")


def in_chunks(where: str, columns: Sequence[str], rows: Iterable[ParsedRow]) -> Iterator[Chunk]:
    """Group rows into chunks of at most `CHUNK_ROWS` rows and about 64 MiB."""
    first, size, kept = 1, 0, list[ParsedRow]()
    for row in rows:
        kept.append(row)
        size += row.bytes
        if len(kept) == CHUNK_ROWS or size > _BATCH_BYTES:
            yield _chunk(where, columns, first, kept)
            first, size, kept = first + len(kept), 0, []
    if kept:
        yield _chunk(where, columns, first, kept)


def require_columns(columns: Sequence[str], existing: Sequence[str], *, where: str) -> None:
    """Refuse missing and duplicate columns.

    Raises:
      UserError: listing the existing columns, with a suggestion.
    """
    for column, count in Counter(existing).items():
        if count > 1:
            raise UserError(f"{where}: has several columns named '{column}'. Rename one.")
    for column in columns:
        if column not in existing:
            near = difflib.get_close_matches(column, existing, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            listed = ", ".join(existing) or "none"
            listed = listed if len(listed) <= 500 else listed[:497] + "..."
            raise UserError(f"{where}: has no column '{column}'. It has: {listed}.{hint}")


def _chunk(where: str, columns: Sequence[str], first: int, rows: list[ParsedRow]) -> Chunk:
    values = {column: [row.values[i] for row in rows] for i, column in enumerate(columns)}
    return Chunk(where, first, values, [row.line for row in rows])
