"""Reads .csv, where quotation marks enclose cells (RFC 4180), and .tsv, where they are part of the text.

Cells of .csv may thus contain line breaks; cells of .tsv neither line breaks nor tabs. Every cell is a string, and
every row must have as many cells as the header.
"""

import csv
from collections.abc import Iterator, Sequence
from typing import Self

from jdistill.config import UserError
from jdistill.data.chunk import Chunk, ParsedRow, in_chunks, place, require_columns
from jdistill.data.lines import LONGEST_LINE, Stream, decoded, read_lines

_QUOTED = 'In .csv, a text with quotation marks is written "6"" pipe"; or convert the file to .jsonl.'


def csv_chunks(stream: Stream, columns: Sequence[str], where: str) -> Iterator[Chunk]:
    """Rows of a .csv file."""
    return _chunks(_csv_records(stream, where), columns, where)


def tsv_chunks(stream: Stream, columns: Sequence[str], where: str) -> Iterator[Chunk]:
    """Rows of a .tsv file."""
    return _chunks(_tsv_records(stream, where), columns, where)


def _chunks(records: Iterator[ParsedRow], columns: Sequence[str], where: str) -> Iterator[Chunk]:
    header = next(records, None)
    if header is None:
        raise UserError(f"{where}: is empty, expected a header line with the column names.")
    names = header.values
    require_columns(columns, names, where=where)
    places = [names.index(column) for column in columns]

    def rows() -> Iterator[ParsedRow]:
        for number, record in enumerate(records, start=1):
            cells = record.values
            if len(cells) != len(names):
                raise UserError(
                    f"{place(where, number, record.line)}: has {len(cells)} cells, expected {len(names)} as in the "
                    "header. Repair the row; use .jsonl for texts that contain the separator or line breaks."
                )
            yield record._replace(values=[cells[i] for i in places])

    return in_chunks(where, columns, rows())


def _tsv_records(stream: Stream, where: str) -> Iterator[ParsedRow]:
    row = 0
    for number, line in enumerate(read_lines(stream, where=where), start=1):
        text = decoded(line, _row(where, row, number)).rstrip("\r\n")
        if text:
            yield ParsedRow(number, len(line), text.split("\t"))
            row += 1


class _Lines:
    """The decoded lines of a file; `taken` collects those of the current record."""

    def __init__(self, stream: Stream, where: str) -> None:
        self.where = where
        self.number = self.row = 0
        self.taken: list[str] = []
        self._lines = read_lines(stream, where=where)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self.taken.append(decoded(line, _row(self.where, self.row, self.number)))
        return self.taken[-1]


def _csv_records(stream: Stream, where: str) -> Iterator[ParsedRow]:
    # Python's own limit is 128 KiB.
    csv.field_size_limit(LONGEST_LINE)
    lines = _Lines(stream, where)
    # Without `strict`, a quotation mark in the wrong place would be interpreted somehow.
    reader = csv.reader(lines, strict=True)
    spread = stray = (
        ""  # first record that spans several lines, first record with a quotation mark inside an unquoted cell
    )
    while True:
        lines.taken.clear()
        line = lines.number + 1
        here = _row(where, lines.row, line)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{here}: {_told(str(error))} {_QUOTED}") from error
        if not cells:
            continue
        spread = spread or (here if len(lines.taken) > 1 else "")
        stray = stray or (here if _has_stray_quote(cells, lines.taken) else "")
        if spread and stray:
            raise UserError(
                f"{spread}: a quoted cell spans several lines, but in {stray.removeprefix(where + ', ')} a quotation "
                f"mark is part of the text, so these lines may be separate rows. {_QUOTED}"
            )
        yield ParsedRow(line, sum(map(len, lines.taken)), cells)
        lines.row += 1


def _has_stray_quote(cells: list[str], lines: list[str]) -> bool:
    """Whether a record has a quotation mark that neither encloses a cell nor is doubled inside a quoted one."""
    inside = sum(cell.count('"') for cell in cells)
    if not inside:
        return False
    written = sum(line.count('"') for line in lines)
    # A quoted cell with n marks in its text is written with 2 n + 2 of them.
    return written % 2 == 1 or written < 2 * inside + 2


def _told(error: str) -> str:
    if "expected after" in error:
        return "there is text after the closing quotation mark of a cell."
    if "end of data" in error or "field limit" in error:
        return "the closing quotation mark of a cell is missing."
    return f"cannot be read as csv: {error}."


def _row(where: str, row: int, line: int) -> str:
    return place(where, row, line) if row else f"{where}, line {line}"
