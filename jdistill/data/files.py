"""Local parquet, csv and jsonl files as batches of columns, never more than a batch in memory."""

import difflib
import glob
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from jdistill.config import UserError

_BATCH_ROWS = 8192
_CSV_BLOCK_BYTES = 1 << 24  # a csv row must fit into a block
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


class Batch(NamedTuple):
    """Some consecutive rows, column by column."""

    where: str
    """File or data set, for messages."""
    first: int
    """Number of the first row; the first row of a file is 1."""
    columns: dict[str, list[Any]]
    """Column -> one value per row; None where it is missing."""

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))


def find_files(path: str) -> list[Path]:
    """The file at `path`, or every file that the glob matches, in the order of their names.

    Raises:
      UserError: if there is none.
    """
    if Path(path).is_file():
        return [Path(path)]
    found = sorted(Path(p) for p in glob.glob(str(Path(path).expanduser()), recursive=True) if Path(p).is_file())
    if not found:
        raise UserError(f"{path}: no such file. {_hint(Path(path).expanduser())}")
    return found


def _hint(path: Path) -> str:
    """What may be meant by a path that is no file."""
    if path.is_dir():
        return f"It is a folder; name its files, such as '{path / '*.parquet'}'."
    if path.is_symlink():
        return f"It is a link to '{path.readlink()}', which is not there."
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
    return f"Did you mean '{path.parent / near[0]}'?" if near else "Check the path; it counts from where you are."


def file_batches(path: Path, columns: Sequence[str], *, where: str = "") -> Iterator[Batch]:
    """The named columns of one file. Values of csv files are strings.

    Args:
      path: ends in .parquet, .csv, .tsv, .jsonl or .ndjson; a text format may be compressed, as in .jsonl.gz.
      columns: names of columns.
      where: put in front of the path in messages.

    Raises:
      UserError: if the file is missing or cannot be parsed, or has not all the columns.
    """
    where = f"{where}{path}"
    if not path.is_file():
        find_files(str(path))
    read = _READERS.get(_suffix(path))
    if read is None:
        raise UserError(f"{where}: unknown kind of file. Expected one of {', '.join(_READERS)}; convert it.")
    try:
        yield from read(path, columns, where)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{where}: cannot be read as {_suffix(path)[1:]}: {reason[:300]}. Repair the file.") from error


def read_columns(path: str | Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Whole columns of a local file, in its order.

    Types are the file's own; in a csv file a column is numbers if all its values are, else strings.

    Args:
      path: a parquet, csv, tsv or jsonl file, or a glob of such files.
      columns: names of columns; each must exist in every file.

    Raises:
      UserError: if a file or a column is missing, or a file cannot be parsed.
    """
    whole: dict[str, list[Any]] = {column: [] for column in columns}
    numbers_are_strings = False
    for file in find_files(str(path)):
        numbers_are_strings |= _suffix(file) in (".csv", ".tsv")
        for batch in file_batches(file, columns):
            for column in columns:
                whole[column] += batch.columns[column]
    return {column: _as_numbers(values) for column, values in whole.items()} if numbers_are_strings else whole


def require_columns(columns: Sequence[str], existing: Sequence[str], *, where: str) -> None:
    """Refuse columns that do not exist.

    Raises:
      UserError: listing the columns there are, with a guess at what was meant.
    """
    for column in columns:
        if column not in existing:
            near = difflib.get_close_matches(column, existing, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{where}: has no column '{column}'. It has: {', '.join(existing) or 'none'}.{hint}")


def _parquet(path: Path, columns: Sequence[str], where: str) -> Iterator[Batch]:
    with pq.ParquetFile(path) as file:
        require_columns(columns, file.schema_arrow.names, where=where)
        first = 1
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
            yield Batch(where, first, {column: batch.column(column).to_pylist() for column in columns})
            first += batch.num_rows


def _csv(path: Path, columns: Sequence[str], where: str, delimiter: str = ",") -> Iterator[Batch]:
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    read = pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    with _open(path) as stream:
        existing = pa_csv.open_csv(stream, read_options=read, parse_options=parse).schema.names
    require_columns(columns, existing, where=where)
    # Strings whatever they look like: guessed types would turn the text "007" into 7.
    convert = pa_csv.ConvertOptions(include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string()))
    with _open(path) as stream:
        first = 1
        for batch in pa_csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
            if batch.num_rows:
                yield Batch(where, first, {column: batch.column(column).to_pylist() for column in columns})
                first += batch.num_rows


def _tsv(path: Path, columns: Sequence[str], where: str) -> Iterator[Batch]:
    return _csv(path, columns, where, delimiter="\t")


def _jsonl(path: Path, columns: Sequence[str], where: str) -> Iterator[Batch]:
    """Parsed line by line: types may vary between lines, and a message can name the line. Blank lines are no rows."""
    first = 1
    with _open(path) as stream:
        lines = (line for line in _lines(stream) if line.strip())
        while block := list(islice(lines, _BATCH_ROWS)):
            rows = [_json_object(line, f"{where}, row {first + i}") for i, line in enumerate(block)]
            if first == 1:  # a key that is left out of some rows is a missing value, one that is in none is a mistake
                require_columns(columns, list(dict.fromkeys(key for row in rows for key in row)), where=where)
            yield Batch(where, first, {column: [row.get(column) for row in rows] for column in columns})
            first += len(rows)


_READERS: dict[str, Callable[[Path, Sequence[str], str], Iterator[Batch]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in _COMPRESSED else path).suffix.lower()


def _open(path: Path) -> pa.NativeFile:
    return pa.input_stream(str(path), compression="detect")


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: not valid JSON: {error}. Every line must hold one JSON object.") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: is {str(row)[:60]!r}, expected one JSON object per line, with columns as keys.")
    return row


def _as_numbers(values: list[str | None]) -> list[Any]:
    """Numbers if every value is one, else the values as they are."""
    for kind in (int, float):
        try:
            return [kind(value) for value in values]  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return values
