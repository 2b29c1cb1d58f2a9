"""Reads JSON lines. Types may vary between lines; blank lines are skipped."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from jdistill.config import UserError
from jdistill.data import chunk
from jdistill.data.chunk import Chunk, ParsedRow, in_chunks, place, require_columns
from jdistill.data.lines import Stream, read_lines


def json_chunks(stream: Stream, columns: Sequence[str], where: str) -> Iterator[Chunk]:
    """Rows of a .jsonl file. A column may be missing in some rows, but not in all rows of the first chunk."""
    rows = _objects(stream, where)
    first = list(islice(rows, chunk.CHUNK_ROWS))
    if first:
        require_columns(columns, list(dict.fromkeys(key for row in first for key in row[2])), where=where)
    return in_chunks(
        where,
        columns,
        (ParsedRow(line, size, [row.get(column) for column in columns]) for line, size, row in chain(first, rows)),
    )


def _objects(stream: Stream, where: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    number = 0
    for line, content in enumerate(read_lines(stream, where=where), start=1):
        if content.strip():
            number += 1
            yield line, len(content), _object(content, place(where, number, line))


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except _TwiceError as error:
        raise UserError(f"{where}: has the key {str(error)[:60]!r} twice. Rename one.") from error
    except (ValueError, RecursionError) as error:  # numbers with too many digits are a ValueError, too
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).rstrip(".")
        raise UserError(f"{where}: not valid JSON: {reason}. Every line must be one JSON object.") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: is {str(row)[:60]!r}, expected one JSON object per line, with columns as keys.")
    return row
