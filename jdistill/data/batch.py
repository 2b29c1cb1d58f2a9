"""Consecutive rows of a file, column by column, and where each of them stands."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jdistill.config import UserError

BATCH_ROWS = 8192
_BATCH_BYTES = 1 << 26


class Batch(NamedTuple):
    """Some consecutive rows, column by column."""

    where: str
    """File or data set, for messages."""
    first: int
    """Number of the first row; the first row of a file is 1, header and blank lines do not count."""
    columns: dict[str, list[Any]]
    """Column -> one value per row; None where it is missing."""
    lines: Sequence[int] | None = None
    """Of text files, the line on which each row begins; the first line of a file is 1."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def place(self, i: int) -> str:
        """Where the batch's row `i` stands, for messages."""
        return place(self.where, self.first + i, None if self.lines is None else self.lines[i])


class ParsedRow(NamedTuple):
    """One row of a text file."""

    line: int
    """Where it begins."""
    bytes: int
    """How long it is in the file."""
    values: Sequence[Any]
    """One for each column that is read."""


def place(where: str, row: int, line: int | None = None) -> str:
    """`where, row 3 (line 5)`; the line is left out where its number is the row's."""
    return f"{where}, row {row}" + (f" (line {line})" if line not in (None, row) else "")


def batched(where: str, columns: Sequence[str], rows: Iterable[ParsedRow]) -> Iterator[Batch]:
    """Rows as batches of at most `BATCH_ROWS` rows and about 64 MiB."""
    first, size, kept = 1, 0, list[ParsedRow]()
    for row in rows:
        kept.append(row)
        size += row.bytes
        if len(kept) == BATCH_ROWS or size > _BATCH_BYTES:
            yield _batch(where, columns, first, kept)
            first, size, kept = first + len(kept), 0, []
    if kept:
        yield _batch(where, columns, first, kept)


def require_columns(columns: Sequence[str], existing: Sequence[str], *, where: str) -> None:
    """Refuse columns that do not exist, and names that several columns have.

    Raises:
      UserError: listing the columns there are, with a guess at what was meant.
    """
    for column, count in Counter(existing).items():
        if count > 1:
            raise UserError(f"{where}: has several columns called '{column}', expected each name once. Rename one.")
    for column in columns:
        if column not in existing:
            near = difflib.get_close_matches(column, existing, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            listed = ", ".join(existing) or "none"
            listed = listed if len(listed) <= 500 else listed[:497] + "..."
            raise UserError(f"{where}: has no column '{column}'. It has: {listed}.{hint}")


def _batch(where: str, columns: Sequence[str], first: int, rows: list[ParsedRow]) -> Batch:
    values = {column: [row.values[i] for row in rows] for i, column in enumerate(columns)}
    return Batch(where, first, values, [row.line for row in rows])
