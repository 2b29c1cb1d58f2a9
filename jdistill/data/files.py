"""Reads local parquet, csv, tsv and jsonl files as chunks of columns, with one chunk in memory at a time."""

import difflib
import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jdistill.config import UserError
from jdistill.data import chunk as sizes
from jdistill.data.chunk import Chunk, require_columns
from jdistill.data.delimited import csv_chunks, tsv_chunks
from jdistill.data.json_lines import json_chunks
from jdistill.data.lines import Stream
from jdistill.data.values import WrongValueError

_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


def find_files(path: str) -> list[Path]:
    """The file at `path`, or all files that match the glob, sorted by name.

    Raises:
      UserError: if there is no such file.
    """
    if Path(path).is_file():
        return [Path(path)]
    found = sorted(Path(p) for p in glob.glob(str(Path(path).expanduser()), recursive=True) if Path(p).is_file())
    if not found:
        raise UserError(f"{path}: no such file. {_hint(Path(path).expanduser())}")
    return found


def _hint(path: Path) -> str:
    """A suggestion for a path that is not a file."""
    if path.is_dir():
        return f"It is a folder; pass its files, such as '{path / '*.parquet'}'."
    if path.is_symlink():
        return f"It is a link to '{path.readlink()}', which does not exist."
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
    return (
        f"Did you mean '{path.parent / near[0]}'?" if near else "Check the path; it is relative to the current folder."
    )


def file_chunks(path: Path, columns: Sequence[str], *, where: str = "") -> Iterator[Chunk]:
    """Read the named columns of one file. Values of csv and tsv files are strings.

    Args:
      path: ends in .parquet, .csv, .tsv, .jsonl or .ndjson; text formats may be compressed, as in .jsonl.gz.
      columns: column names.
      where: prefix of the path in messages.

    Raises:
      UserError: if the file is missing or cannot be parsed, lacks a column, or has a duplicate column.
    """
    where = f"{where}{path}"
    if not path.is_file():
        find_files(str(path))  # raises, with a suggestion
    suffix = _suffix(path)
    if suffix not in _SUFFIXES:
        raise UserError(f"{where}: unknown file type. Expected one of {', '.join(_SUFFIXES)}; convert it.")
    try:
        if suffix == ".parquet":
            yield from _parquet(path, columns, where)
        else:
            with pa.input_stream(str(path), compression="detect") as stream:
                yield from _READERS[suffix](stream, columns, where)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{where}: cannot be read as {suffix[1:]}: {reason[:300]}. Repair the file.") from error


def read_columns(path: str | Path, columns: Mapping[str, Callable[[Any], Any]]) -> dict[str, list[Any]]:
    """Read entire columns of local files, in order, and validate each value.

    Args:
      path: a parquet, csv, tsv or jsonl file, or a glob of such files.
      columns: column name, required in every file -> conversion function, one of `data.values`.

    Raises:
      UserError: if a file or column is missing, a file cannot be parsed, there are no rows, or a value is wrong, naming
        file, row and column.
    """
    whole: dict[str, list[Any]] = {column: [] for column in columns}
    for file in find_files(str(path)):
        for chunk in file_chunks(file, list(columns)):
            for column, convert in columns.items():
                whole[column] += _converted(chunk, column, convert)
    if not all(whole.values()):
        raise UserError(f"{path}: has no rows, expected at least one.")
    return whole


def place_of(path: str | Path, column: str, index: int) -> str:
    """File, row and line of item `index` of a column returned by `read_columns`, for messages."""
    for file in find_files(str(path)):
        for chunk in file_chunks(file, [column]):
            if index < chunk.size:
                return chunk.place(index)
            index -= chunk.size
    raise IndexError(f"{path} has fewer rows")


def _converted(chunk: Chunk, column: str, convert: Callable[[Any], Any]) -> list[Any]:
    found = []
    for i, value in enumerate(chunk.columns[column]):
        try:
            found.append(convert(value))
        except WrongValueError as wrong:
            raise UserError(
                f"{chunk.place(i)}, column '{column}': {wrong}. Repair the row, or choose another column."
            ) from None
    return found


def _parquet(path: Path, columns: Sequence[str], where: str) -> Iterator[Chunk]:
    with pq.ParquetFile(path) as file:
        require_columns(columns, file.schema_arrow.names, where=where)
        first = 1
        for chunk in file.iter_batches(batch_size=sizes.CHUNK_ROWS, columns=list(columns)):
            values = {name: _values(chunk.column(name), f"column '{name}'", where, first) for name in columns}
            yield Chunk(where, first, values)
            first += chunk.num_rows


def _values(column: pa.Array, name: str, where: str, first: int) -> list[Any]:
    """A column as Python values; values that Python cannot represent, such as the year 10,000, are user errors."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        # One value fails the whole column: find it, to name its row.
        for i in range(len(column)):
            try:
                column[i].as_py()
            except (ValueError, OverflowError, pa.ArrowException) as error:
                reason = " ".join(str(error).split()).rstrip(".")[:200]
                raise UserError(
                    f"{where}, row {first + i}, {name}: is not a readable value of {column.type}: {reason}. "
                    "Repair the row, or map another column."
                ) from error
        raise


_READERS: dict[str, Callable[[Stream, Sequence[str], str], Iterator[Chunk]]] = {
    ".csv": csv_chunks,
    ".tsv": tsv_chunks,
    ".jsonl": json_chunks,
    ".ndjson": json_chunks,
}
_SUFFIXES = (".parquet", *_READERS)


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix.lower()
