"""Exact export and import of teacher vectors as columns of a Hugging Face data set.

The vectors of column `document` are in `document_embedding`. float16 stays float16; bfloat16 and int8, which Arrow has
no vectors of, are converted to float32 and back, without loss if the description states their dtype. `datasets` is
imported on first use.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
from pydantic import Field

from jdistill.config import Config, UserError
from jdistill.store.files import open_array
from jdistill.store.reader import Rows, Store
from jdistill.store.teacher_writer import TeacherWriter
from jdistill.store.vectors import DTYPES, SideName, to_float32, to_stored
from jdistill.store.writer import write_texts
from jdistill.texts import is_empty, is_whole

if TYPE_CHECKING:
    from datasets import Dataset

_PIECE = 2048  # rows in memory at once
_LARGEST_SCORE = 3.4e38  # stores keep float32


class VectorColumns(Config):
    """Text columns of a data set; the vectors of column X are in the column X + `suffix`."""

    query: str | None = None
    """Column of queries; null if rows are plain texts."""
    document: str = "document"
    """Column of documents."""
    negatives: list[str] = Field(default_factory=list)
    """Columns of hard negatives, one text each."""
    score: str | None = None
    """Column of numbers, or of lists of numbers: one per document and hard negative, or one per hard negative."""
    label: str | None = None
    """Column of classes: names or whole numbers."""
    suffix: str = "_embedding"
    """Suffix that turns the name of a text column into that of its vectors."""

    @property
    def texts(self) -> list[str]:
        """All text columns: queries first, then documents, then negatives."""
        return [column for column in (self.query, self.document, *self.negatives) if column is not None]


def to_dataset(store: Store, role: str, teacher: str) -> "Dataset":
    """Export the rows of one role with their texts and one teacher's vectors, in order.

    Columns: `query`, `document`, `negative_1` ..., `score`, `label`, as available, and a fixed-length `*_embedding` per
    text column. A score is a number, or a list if rows have several. The data set's description is the teacher's
    description as JSON. `save_to_disk` keeps it; parquet files and `push_to_hub` do not, so then also share
    `store.teacher(teacher).manifest["description"]`, which `from_dataset` needs. The table is built in memory.

    Raises:
      UserError: if the store has no such role or teacher.
    """
    import datasets
    from datasets.table import InMemoryTable

    vectors, rows = store.teacher(teacher), store.rows(role)
    columns = _exported(rows)
    pieces = []
    for first in range(0, len(rows.documents), _PIECE):
        part = slice(first, first + _PIECE)
        piece: dict[str, pa.Array] = {}
        embeddings: dict[str, pa.Array] = {}
        for column, (side, ids) in zip(columns.texts, _sides(rows), strict=True):
            piece[column] = pa.array(store.texts.take(ids[part]), pa.string())
            values = vectors.take(ids[part], side)
            values = values.astype(np.float16) if vectors.dtype == "float16" else values
            embeddings[column + columns.suffix] = pa.FixedSizeListArray.from_arrays(values.reshape(-1), vectors.width)
        if rows.scores is not None:
            scores, per_row = np.asarray(rows.scores[part]).reshape(-1), rows.scores.shape[1]
            piece["score"] = pa.array(scores) if per_row == 1 else pa.FixedSizeListArray.from_arrays(scores, per_row)
        if rows.labels is not None:
            piece["label"] = pa.array([store.labels[i] for i in rows.labels[part]], pa.string())
        pieces.append(pa.table({**piece, **embeddings}))
    info = datasets.DatasetInfo(description=json.dumps(vectors.manifest["description"], ensure_ascii=False))
    return datasets.Dataset(InMemoryTable(pa.concat_tables(pieces)), info=info)


def from_dataset(
    dataset: "Dataset",
    columns: VectorColumns | None,
    path: str | Path,
    description: Mapping[str, Any] | None,
    *,
    teacher: str,
    role: str = "train",
) -> Store:
    """Import texts and vectors of a data set into a store; the inverse of `to_dataset`.

    If called again with the same texts and another teacher's name, adds that teacher to the store. The manifest and
    model cards record that the vectors were imported, since the described model cannot be verified.

    Args:
      dataset: texts, and a column of vectors for each text column.
      columns: the columns' meaning; None: the names used by `to_dataset`.
      path: folder of the store.
      description: of the teacher, see TeacherWriter; None: read from the data set's description, as written by
        `to_dataset`. Prompts default to "", the dtype to the column's; the width is the column's.
      teacher: the teacher's name in the store.
      role: role of the rows.

    Raises:
      UserError: if there is no description, a column is missing or has the wrong type, rows differ in their number of
        scores, the dtype cannot represent the vectors exactly, or equal texts have different vectors.
    """
    _require_data_set(dataset)
    columns = columns or _named(dataset)
    needed = [*columns.texts, *(column + columns.suffix for column in columns.texts), columns.score, columns.label]
    missing = [column for column in needed if column is not None and column not in dataset.column_names]
    if missing:
        raise UserError(f"data set: has no column {', '.join(missing)}. It has: {', '.join(dataset.column_names)}.")
    given = description if description is not None else _description(dataset.info.description)
    prompts = _prompts(given)
    read = _Reader(dataset.with_format("arrow"), columns)
    write_texts(path, [(teacher, role, read.rows())], fingerprint={"data set": read.hash_of_texts(), "role": role})
    store = Store.open(path)
    first = read.raw(0, np.array([0]))
    described = {
        "dtype": str(first.dtype) if str(first.dtype) in DTYPES else "float32",
        **given,
        "prompts": prompts,
        "width": first.shape[1],
    }
    writer = TeacherWriter(store, teacher, described, origin="a data set")
    places = _Places(writer, store.rows(role))
    for shard in writer.missing():
        writer.write(shard, _exact(read.take(places.of_shard(shard)), writer.description["dtype"]))
    _require_one_vector_each(read, places, store.rows(role))
    writer.finish()
    return store


def _description(text: str | None) -> dict[str, Any]:
    """The teacher's description that `to_dataset` wrote into a data set's description."""
    try:
        found = json.loads(text or "null")
    except ValueError:
        found = None
    if not isinstance(found, dict) or "prompts" not in found:  # other JSON is not a teacher's description
        raise UserError(
            "data set: does not say how its vectors were made: its description, which parquet files and the hub do not "
            "keep, does not describe a teacher. Pass `description` with the teacher's prompts, such as "
            '{"prompts": {"query": "query: ", "document": ""}}, or {} for none.'
        )
    return found


def _prompts(description: Mapping[str, Any]) -> dict[str, str]:
    """The prompt of each side; defaults to ""."""
    given = description.get("prompts", {})
    prompts = {"query": "", "document": "", **given} if isinstance(given, Mapping) else {}
    if set(prompts) != {"query", "document"} or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise UserError(
            f"description: prompts is {ascii(given)[:60]}, expected a text for each side: "
            'such as {"query": "query: ", "document": ""}.'
        )
    return prompts


def _require_data_set(dataset: Any) -> None:
    import datasets

    if isinstance(dataset, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise UserError(
            f"data set: has splits ({', '.join(map(str, dataset))}), expected the rows of one. Pass one of them, such "
            f"as dataset['{next(iter(dataset), 'train')}']."
        )
    if not isinstance(dataset, datasets.Dataset):
        raise UserError(
            f"data set: is of type {type(dataset).__name__}, expected a Dataset with random access. Load it without "
            "streaming."
        )


class _Row(NamedTuple):
    query: str | None
    document: str
    negatives: tuple[str, ...]
    score: float | tuple[float, ...] | None
    label: str | None


class _Reader:
    """Reads texts and vectors. A flat index ("place") is `column * rows + row`, columns as in `VectorColumns.texts`."""

    def __init__(self, dataset: Any, columns: VectorColumns) -> None:
        self.dataset = dataset
        self.columns = columns
        self._width = 0

    def rows(self) -> Iterator[_Row]:
        has_query = self.columns.query is not None
        for first, table in self._pieces():
            texts = [table.column(column).to_pylist() for column in self.columns.texts]
            for column, values in zip(self.columns.texts, texts, strict=True):
                for i, value in enumerate(values):
                    if not isinstance(value, str) or is_empty(value) or not is_whole(value):
                        place = f"data set, row {first + i + 1}, column '{column}'"
                        raise UserError(f"{place}: is {ascii(value)[:60]}, expected a text.")
            scores = self._scores(table, first) if self.columns.score else [None] * len(table)
            labels = self._labels(table, first) if self.columns.label else [None] * len(table)
            for row, score, label in zip(zip(*texts, strict=True), scores, labels, strict=True):
                query, document, *negatives = row if has_query else (None, *row)
                yield _Row(query, document, tuple(negatives), score, label)

    def _scores(self, table: pa.Table, first: int) -> list[float | tuple[float, ...]]:
        scores: list[float | tuple[float, ...]] = []
        for i, value in enumerate(table.column(self.columns.score).to_pylist()):
            numbers = value if isinstance(value, list) else [value]
            if not _are_scores(numbers):
                raise UserError(
                    f"data set, row {first + i + 1}, column '{self.columns.score}': is {value!r}, expected a number or "
                    "a list of numbers, finite in float32; among several, -inf excludes a candidate, but not all."
                )
            scores.append(tuple(numbers) if len(numbers) > 1 else numbers[0])
        return scores

    def _labels(self, table: pa.Table, first: int) -> list[str]:
        labels: list[str] = []
        for i, value in enumerate(table.column(self.columns.label).to_pylist()):
            named = isinstance(value, str) and not is_empty(value) and "\0" not in value
            if not named and (not isinstance(value, int) or isinstance(value, bool)):
                place = f"data set, row {first + i + 1}, column '{self.columns.label}'"
                raise UserError(f"{place}: is {ascii(value)[:60]}, expected a label: a string or a whole number.")
            labels.append(str(value))
        return labels

    def hash_of_texts(self) -> str:
        digest = hashlib.sha256()
        for row in self.rows():
            digest.update(json.dumps(row if row.label is not None else row[:-1]).encode())
        return digest.hexdigest()

    def raw(self, column: int, rows: Int[np.ndarray, " n"]) -> np.ndarray:
        """`[n, d]` in the column's own dtype."""
        name = self.columns.texts[column] + self.columns.suffix
        values = self.dataset.select_columns(name)[rows.tolist()].column(name).combine_chunks()
        lists = isinstance(values.type, pa.FixedSizeListType | pa.ListType | pa.LargeListType)
        flat = values.flatten() if lists else pa.array([])
        if not lists or not pa.types.is_floating(flat.type):
            raise UserError(f"data set, column '{name}': is {values.type}, expected vectors of one width. Convert it.")
        self._require_one_width(values, rows, name)
        return flat.to_numpy(zero_copy_only=False).reshape(len(rows), -1)

    def _require_one_width(self, vectors: pa.Array, rows: Int[np.ndarray, " n"], name: str) -> None:
        lengths = pc.call_function("list_value_length", [vectors]).fill_null(0).to_numpy()
        width = self._width = self._width or int(lengths[0])
        wrong = np.flatnonzero((lengths != width) | (lengths == 0))
        if not len(wrong) and vectors.flatten().null_count:
            holes = vectors.flatten().is_null().to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero(holes) // width
        if len(wrong):
            i = int(wrong[0])
            found = "missing numbers" if lengths[i] == width else f"{lengths[i]} numbers"
            raise UserError(
                f"data set, row {int(rows[i]) + 1}, column '{name}': has {found}, expected vectors of one width, here "
                f"{width or 'at least 1'}. Repair the row."
            )

    def take(self, places: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """float32 vectors at these flat indices."""
        column, row = np.divmod(places, len(self.dataset))
        vectors: np.ndarray | None = None
        for i in np.unique(column):
            values = self.raw(int(i), row[column == i])
            exact = values.astype(np.float32)
            if not np.array_equal(exact, values, equal_nan=True):
                raise UserError(
                    f"data set, column '{self.columns.texts[i]}{self.columns.suffix}': is {values.dtype}, and float32 "
                    "cannot represent its values exactly. Cast the column to float32."
                )
            vectors = np.empty((len(places), exact.shape[1]), np.float32) if vectors is None else vectors
            if vectors.shape[1] != exact.shape[1]:
                raise UserError(
                    f"data set: vectors have widths {vectors.shape[1]} and {exact.shape[1]}, expected one width."
                )
            vectors[column == i] = exact
        assert vectors is not None
        return vectors

    def _pieces(self) -> Iterator[tuple[int, pa.Table]]:
        names = list(dict.fromkeys([*self.columns.texts, *(x for x in (self.columns.score, self.columns.label) if x)]))
        first = 0
        for table in self.dataset.select_columns(names).iter(batch_size=_PIECE):
            yield first, table
            first += len(table)


def _are_scores(numbers: list[Any]) -> bool:
    """Whether all numbers are finite in float32, except that some, but not all, may be -inf."""
    if not numbers or not all(isinstance(x, int | float) for x in numbers):
        return False
    finite = [abs(x) <= _LARGEST_SCORE for x in numbers]
    return any(finite) and all(x == -math.inf or fine for x, fine in zip(numbers, finite, strict=True))


class _Places:
    """Flat data set index of each vector of the store: the first occurrence of its text on its side."""

    def __init__(self, writer: TeacherWriter, rows: Rows) -> None:
        self.writer = writer
        count = len(rows.documents)
        self.index = {side: open_array(writer.folder / f"index.{side}.npy") for side in ("query", "document")}
        self.of_vector = np.full(writer.rows, -1, np.int64)
        # Assign in reverse order, queries last, so that the first occurrence wins.
        for column, (side, ids) in reversed(list(enumerate(_sides(rows)))):
            vectors = self.index[side][ids]
            self.of_vector[vectors[::-1]] = column * count + np.arange(count)[::-1]

    def of_shard(self, shard: int) -> Int[np.ndarray, " s"]:
        first = shard * self.writer.plan["shard_rows"]
        return self.of_vector[first : first + self.writer.size(shard)]


def _require_one_vector_each(read: _Reader, places: _Places, rows: Rows) -> None:
    """Refuse equal texts with different vectors, of which the store could keep only one."""
    count = len(rows.documents)
    for column, (side, ids) in enumerate(_sides(rows)):
        kept = places.of_vector[places.index[side][ids]]
        again = np.flatnonzero(kept != column * count + np.arange(count))
        for first in range(0, len(again), _PIECE):
            part = again[first : first + _PIECE]
            differ = (read.take(column * count + part) != read.take(kept[part])).any(axis=1)
            if differ.any():
                row = int(part[np.argmax(differ)])
                other, other_row = divmod(int(kept[row]), count)
                raise UserError(
                    f"data set, row {row + 1}, column '{read.columns.texts[column]}': the text has another vector than "
                    f"in row {other_row + 1}, column '{read.columns.texts[other]}'. If queries and documents had "
                    "different prompts, put both in the description; otherwise the vectors are from several teachers."
                )


def _exact(vectors: Float[np.ndarray, "n d"], dtype: str) -> Float[np.ndarray, "n d"]:
    if not np.array_equal(to_float32(to_stored(vectors, dtype), dtype), vectors, equal_nan=True):
        raise UserError(f"data set: dtype {dtype} cannot represent the vectors exactly. Describe dtype: float32.")
    return vectors


def _sides(rows: Rows) -> list[tuple[SideName, Int[np.ndarray, " n"]]]:
    """Side and text ids of each text column, in the order of `VectorColumns.texts`."""
    documents: list[tuple[SideName, Any]] = [("document", column) for column in np.asarray(rows.documents).T]
    return documents if rows.queries is None else [("query", np.asarray(rows.queries)), *documents]


def _exported(rows: Rows) -> VectorColumns:
    return VectorColumns(
        query=None if rows.queries is None else "query",
        negatives=[f"negative_{i}" for i in range(1, rows.documents.shape[1])],
        score=None if rows.scores is None else "score",
        label=None if rows.labels is None else "label",
    )


def _named(dataset: Any) -> VectorColumns:
    names = dataset.column_names
    negatives = [name for i in range(1, len(names)) if (name := f"negative_{i}") in names]
    return VectorColumns(
        query="query" if "query" in names else None,
        negatives=negatives,
        score="score" if "score" in names else None,
        label="label" if "label" in names else None,
    )
