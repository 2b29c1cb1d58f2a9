"""Exact export and import of teacher vectors as columns of a Hugging Face data set.

The vectors of column `document` are in `document_embedding`. float16 stays float16; bfloat16 and int8, which Arrow has
no vectors of, are converted to float32 and back, without loss if the description states their dtype. `datasets` is
imported on first use.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from jdistill.config import UserError
from jdistill.progress import Progress
from jdistill.store.dataset_reader import PIECE, DatasetReader, VectorColumns
from jdistill.store.files import open_array
from jdistill.store.reader import Rows, Store
from jdistill.store.teacher_writer import TeacherWriter
from jdistill.store.vectors import DTYPES, SideName, TeacherVectors, to_float32, to_stored
from jdistill.store.writer import write_texts

if TYPE_CHECKING:
    from datasets import Dataset


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
    with Progress(f"export {teacher}", len(rows.documents), unit="rows") as progress:
        for first in range(0, len(rows.documents), PIECE):
            pieces.append(_piece(store, rows, columns, vectors, slice(first, first + PIECE)))
            progress.advance(len(pieces[-1]))
    info = datasets.DatasetInfo(description=json.dumps(vectors.manifest["description"], ensure_ascii=False))
    return datasets.Dataset(InMemoryTable(pa.concat_tables(pieces)), info=info)


def _piece(store: Store, rows: Rows, columns: VectorColumns, vectors: TeacherVectors, part: slice) -> pa.Table:
    """Some rows as a table: texts, score, label, then the vectors of each text column."""
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
    return pa.table({**piece, **embeddings})


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
    # As Arrow tables: Python lists of numbers would take many times the memory.
    read = DatasetReader(dataset.with_format("arrow"), columns)
    write_texts(path, [(teacher, role, read.rows())], fingerprint={"data set": read.hash_of_texts(), "role": role})
    store = Store.open(path)
    # One vector tells dtype and width.
    first = read.raw(0, np.array([0]))
    # A stated dtype takes precedence over the column's; the width is always the column's.
    described = {
        "dtype": str(first.dtype) if str(first.dtype) in DTYPES else "float32",
        **given,
        "prompts": prompts,
        "width": first.shape[1],
    }
    writer = TeacherWriter(store, teacher, described, origin="a data set")
    places = _Places(writer, store.rows(role))
    done = sum(map(writer.size, set(range(writer.shards)) - set(writer.missing())))
    with Progress(f"import {teacher}", writer.rows, unit="vectors", done=done) as progress:
        for shard in writer.missing():
            writer.write(shard, _exact(read.take(places.of_shard(shard)), writer.description["dtype"]))
            progress.advance(writer.size(shard))
    # Before the manifest: a teacher with ambiguous vectors must not become complete.
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


def _require_one_vector_each(read: DatasetReader, places: _Places, rows: Rows) -> None:
    """Refuse equal texts with different vectors, of which the store could keep only one."""
    count = len(rows.documents)
    for column, (side, ids) in enumerate(_sides(rows)):
        kept = places.of_vector[places.index[side][ids]]
        # Cells whose text occurred in an earlier one, of which the vector was kept.
        again = np.flatnonzero(kept != column * count + np.arange(count))
        for first in range(0, len(again), PIECE):
            part = again[first : first + PIECE]
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
