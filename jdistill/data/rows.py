"""Reads rows of text and checks each, so that data errors are reported before anything is computed."""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from jdistill.config import UserError
from jdistill.data.chunk import Chunk
from jdistill.data.config import ColumnMap, SourceConfig
from jdistill.data.files import file_chunks, find_files
from jdistill.data.hub import hub_chunks, local_files
from jdistill.data.values import WrongValueError, label, number, text

_log = logging.getLogger(__name__)
_LARGEST_SCORE = 3.4e38  # stores keep float32


class Row(NamedTuple):
    """One training example: raw texts, prompts not yet applied."""

    query: str | None
    """None if the row is a plain text."""
    document: str
    negatives: tuple[str, ...]
    score: float | tuple[float, ...] | None
    """One number, or several: one per document and negative, or a margin per negative. Among several, -inf excludes a
    candidate."""
    label: str | None = None
    """The row's class; 3 and "3" are equal. None without labels."""


class _Counts(NamedTuple):
    """Counts that must be the same in every row; None before the first."""

    negatives: int | None
    scores: int | None


class _WrongCellError(Exception):
    def __init__(self, column: str, problem: str, *, empty: bool = False) -> None:
        super().__init__(problem)
        self.column = column
        self.empty = empty


def read_rows(name: str, source: SourceConfig) -> Iterator[Row]:
    """Stream the rows of a source, in the order of its files.

    Args:
      name: the source's name in the config, for messages.
      source: the source to read.

    Raises:
      UserError: if a file or column is missing, a text is empty or not a string, a score is not a number, rows differ
        in their number of negatives or scores (naming file, row, column and value), or there are no rows.
    """
    kept = dropped = 0
    counts = _Counts(source.columns.keep_negatives, None)
    for chunk in _chunks(name, source):
        for i in range(chunk.size):
            if kept == source.limit:
                _tell_dropped(name, kept, dropped)
                return
            try:
                rows = _rows(source.columns, chunk, i, counts)
            except _WrongCellError as wrong:
                if wrong.empty and source.empty == "drop":
                    dropped += 1
                    continue
                raise UserError(
                    f"{chunk.place(i)}, column '{wrong.column}': {wrong}."
                    + (f" Repair the row, or set data.{name}.empty: drop." if wrong.empty else "")
                ) from None
            # An input row with several documents may exceed the limit.
            rows = rows[: None if source.limit is None else source.limit - kept]
            counts = _Counts(len(rows[0].negatives), _count(rows[0].score))
            kept += len(rows)
            yield from rows
    if kept == 0:
        why = f"all {dropped} rows lack a text or a score" if dropped else "there are no rows"
        raise UserError(f"data.{name}: {source.path or source.dataset}: empty: {why}. Choose another file or column.")
    _tell_dropped(name, kept, dropped)


def fingerprint(sources: Mapping[str, SourceConfig]) -> dict[str, Any]:
    """Everything that determines the rows: the sources' order and config, and names and hashes of local files.

    Paths are not included, so moved files with the same bytes are the same data. Equal fingerprints imply equal rows,
    except for hub data sets whose revision is not a commit.
    """
    marks = {name: _fingerprint(source) for name, source in sources.items()}
    return {"order of sources": list(sources), **marks}


def _fingerprint(source: SourceConfig) -> dict[str, Any]:
    content = source.model_dump(mode="json", exclude={"path"})
    if source.path is not None:
        files = [(file.name, file) for file in find_files(source.path)]
    else:
        files = local_files(source)
        if files:
            content["dataset"] = "a local folder"
    marks = []
    for name, file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        marks.append({"name": name, "bytes": file.stat().st_size, "sha256": digest})
    return {"source": content, "files": marks}


def _chunks(name: str, source: SourceConfig) -> Iterator[Chunk]:
    where = f"data.{name}: "
    if source.path is None:
        yield from hub_chunks(source, where=where)
        return
    try:
        files = find_files(source.path)
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    for file in files:
        yield from file_chunks(file, source.columns.used, where=where)


def _tell_dropped(name: str, kept: int, dropped: int) -> None:
    if dropped:
        _log.warning("data.%s: kept %d rows, dropped %d that lack a text or score", name, kept, dropped)


def _rows(columns: ColumnMap, chunk: Chunk, i: int, expected: _Counts) -> list[Row]:
    """The rows of one input row: one per document, of which there is usually one."""
    name = None if columns.label is None else _cell(columns.label, label, chunk.columns[columns.label][i])
    if columns.text is not None:
        return [Row(None, _text(columns.text, chunk.columns[columns.text][i]), (), None, name)]
    assert columns.query is not None
    assert columns.document is not None
    query = _text(columns.query, chunk.columns[columns.query][i])
    value = chunk.columns[columns.document][i]
    documents = [_text(columns.document, text) for text in (value if isinstance(value, list) else [value])]
    if not documents:
        raise _WrongCellError(columns.document, "has no value, expected a text", empty=True)
    negatives, found = _negatives(columns, chunk, i, expected.negatives) if columns.negatives else ((), 0)
    rows = []
    for j, document in enumerate(documents):
        scores = _scores(columns, chunk, i, (j, len(documents)), found)
        if scores is not None:
            scores = _checked(columns.score_columns[-1], scores, found, len(negatives), expected.scores)
        rows.append(Row(query, document, negatives, scores, name))
    return rows


def _text(column: str, value: Any) -> str:
    return _cell(column, text, value)


def _cell(column: str, convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except WrongValueError as wrong:
        raise _WrongCellError(column, str(wrong), empty=wrong.empty) from None


def _negatives(columns: ColumnMap, chunk: Chunk, i: int, expected: int | None) -> tuple[tuple[str, ...], int]:
    """The negatives to keep, and the number in the data."""
    found: list[tuple[str, Any]] = []
    for column in columns.negative_columns:
        value = chunk.columns[column][i]
        found += [(column, text) for text in (value if isinstance(value, list) else [value])]
    texts = [_text(column, value) for column, value in found[: columns.keep_negatives]]
    column = columns.negative_columns[-1]
    if not texts:
        raise _WrongCellError(column, "has no negatives, expected at least one", empty=True)
    if expected is not None and len(texts) < expected:
        raise _WrongCellError(column, f"has {len(texts)} negatives, expected {expected} in every row", empty=True)
    if expected is not None and len(texts) > expected:
        raise _WrongCellError(
            column,
            f"has {len(texts)} negatives, but earlier rows have {expected}. "
            f"Set columns.keep_negatives: {expected} to keep the first {expected} of each row",
        )
    return tuple(texts), len(found)


def _scores(
    columns: ColumnMap, chunk: Chunk, i: int, document: tuple[int, int], negatives: int
) -> tuple[float, ...] | None:
    """All scores of one row, in the order of the columns; with several documents, the first column has one for each."""
    if not columns.score_columns:
        return None
    index, documents = document
    scores: list[float] = []
    for place, column in enumerate(columns.score_columns):
        value = chunk.columns[column][i]
        values = value if isinstance(value, list) else [value]
        if not values:
            raise _WrongCellError(column, "has no scores, expected a number", empty=True)
        if documents > 1 and place == 0:
            if len(values) != documents:
                raise _WrongCellError(
                    column, f"has {len(values)} scores, expected one for each of the row's {documents} documents"
                )
            values = values[index : index + 1]
        scores += [_cell(column, _number, value) for value in values]
    return tuple(scores)


def _number(value: Any) -> float:
    found = number(value, minus_infinity=True)
    if math.isfinite(found) and abs(found) > _LARGEST_SCORE:
        raise WrongValueError(f"is {found!r}, expected a finite number in float32")
    return found


def _checked(
    column: str, scores: tuple[float, ...], found: int, kept: int, expected: int | None
) -> float | tuple[float, ...]:
    """The validated scores of a row with `found` negatives, of which `kept` are kept: one number, or several."""
    if len(scores) not in (1, found, 1 + found):
        more = f", {1 + found} (document and negatives) or {found} (a margin per negative)" if found else ""
        raise _WrongCellError(column, f"the row has {len(scores)} scores for {found} negatives, expected 1{more}")
    scores = scores[: len(scores) - (found - kept)] if len(scores) > 1 else scores
    if expected is not None and len(scores) != expected:
        raise _WrongCellError(column, f"the row has {len(scores)} scores, but earlier rows have {expected}")
    if all(score == -math.inf for score in scores):
        raise _WrongCellError(
            column, "is -inf, expected a finite number; among several scores -inf excludes a candidate, but not all"
        )
    return scores[0] if len(scores) == 1 else scores


def _count(score: float | tuple[float, ...] | None) -> int | None:
    return None if score is None else len(score) if isinstance(score, tuple) else 1
