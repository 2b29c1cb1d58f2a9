"""Reading texts and vectors from columns of a `datasets.Dataset`, and checking them row by row."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
from pydantic import Field

from jdistill.config import Config, UserError
from jdistill.texts import is_empty, is_whole

PIECE = 2048  # rows in memory at once
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


class _Row(NamedTuple):
    query: str | None
    document: str
    negatives: tuple[str, ...]
    score: float | tuple[float, ...] | None
    label: str | None


class DatasetReader:
    """Reads texts and vectors. A flat index ("place") is `column * rows + row`, columns as in `VectorColumns.texts`."""

    def __init__(self, dataset: Any, columns: VectorColumns) -> None:
        self.dataset = dataset
        self.columns = columns
        self._width = 0

    def rows(self) -> Iterator[_Row]:
        """All rows, checked.

        Raises:
          UserError: naming row and column, if a text, score or label is missing or of another type.
        """
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
        """sha256 over texts, scores and labels of all rows, in hex."""
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
        # A missing vector counts as one of length 0.
        lengths = pc.call_function("list_value_length", [vectors]).fill_null(0).to_numpy()
        width = self._width = self._width or int(lengths[0])
        wrong = np.flatnonzero((lengths != width) | (lengths == 0))
        # Only if all widths are equal does a flat index tell the row.
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
        for table in self.dataset.select_columns(names).iter(batch_size=PIECE):
            yield first, table
            first += len(table)


def _are_scores(numbers: list[Any]) -> bool:
    """Whether all numbers are finite in float32, except that some, but not all, may be -inf."""
    if not numbers or not all(isinstance(x, int | float) for x in numbers):
        return False
    finite = [abs(x) <= _LARGEST_SCORE for x in numbers]
    return any(finite) and all(x == -math.inf or fine for x, fine in zip(numbers, finite, strict=True))
