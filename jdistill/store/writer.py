"""Writes texts and rows. Every text is stored once, numbered by first occurrence; rows refer to texts by id.

    manifest.json              written last, marks the store as complete
    texts/values.npy           uint8: all texts as UTF-8, concatenated
    texts/offsets.npy          int64 [N + 1]: text i is values[offsets[i]:offsets[i + 1]]
    rows/ROLE/documents.npy    int32 [n, c]: each row's document, followed by its hard negatives
    rows/ROLE/queries.npy      int32 [n]; absent if rows are plain texts
    rows/ROLE/scores.npy       float32 [n, s]: one score, one per document (s = c), or a margin per hard negative
                               (s = c - 1); -inf excludes a candidate; absent without scores
    rows/ROLE/labels.npy       int32 [n]: the class of each row, an index into the manifest's labels; absent without
                               labels
    teachers/NAME/             see vectors.py
    tokens/KEY/                see tokens.py

Everything is written to a temporary folder and moved into place file by file. An interrupted writer starts over; the
result has the same bytes.
"""

import hashlib
import os
import re
import shutil
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jdistill.config import UserError
from jdistill.progress import Progress
from jdistill.store.files import (
    ArrayStream,
    as_stored,
    differences,
    load_json,
    remove_stale,
    save_array,
    save_json,
    sha256_of,
    sync_folder,
    temporary,
)

FORMAT = 1
_PIECE = 1000  # rows between two progress updates


class RowLike(Protocol):
    """Interface of a training example."""

    @property
    def query(self) -> str | None:
        """None if the row is a plain text."""
        ...

    @property
    def document(self) -> str:
        """The document, or the plain text."""
        ...

    @property
    def negatives(self) -> tuple[str, ...]:
        """Hard negatives, the same number in every row of a role."""
        ...

    @property
    def score(self) -> float | tuple[float, ...] | None:
        """One number, or one per document or per hard negative; None without a score."""
        ...

    @property
    def label(self) -> str | None:
        """Name of the row's class; None without a label."""
        ...


def write_texts(
    path: str | Path, sources: Iterable[tuple[str, str, Iterable[RowLike]]], *, fingerprint: Mapping[str, Any]
) -> None:
    """Write the texts and rows of all sources, or do nothing if the store exists.

    Args:
      path: folder of the store.
      sources: name, role and rows of each source. All rows of a role must have the same parts (query, number of
        negatives, number of scores, label). Not read if the store exists.
      fingerprint: JSON value that determines the rows; a store with another fingerprint is refused.

    Raises:
      UserError: if the folder contains a store of other data, rows of a role differ in their parts, the number of
        scores of a row is neither 1 nor that of its documents or hard negatives, or a text is not valid Unicode.
    """
    path = Path(path)
    fingerprint = as_stored(fingerprint)
    # Compared before any source is read, which may take long.
    if (path / "manifest.json").is_file():
        _require_same_data(path, fingerprint)
        return
    path.mkdir(parents=True, exist_ok=True)
    remove_stale(path)
    made = temporary(path / "texts")
    shutil.rmtree(made, ignore_errors=True)
    try:
        manifest = _write_all(made, sources)
        # Until there is a manifest the store counts as incomplete, so that files may arrive one by one.
        for file in sorted(made.rglob("*.npy")):
            place = path / file.relative_to(made)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
            sync_folder(place.parent)
        # All renames must be on disk before the manifest that says so.
        sync_folder(path)
        save_json(path / "manifest.json", {"format": FORMAT, "fingerprint": fingerprint, **manifest})
    finally:
        shutil.rmtree(made, ignore_errors=True)


def require_name(name: str, *, what: str) -> None:
    """Refuse a name that is not usable as a folder name.

    Raises:
      UserError: if it has characters other than letters, digits, '.', '_' and '-', or starts with one of these three.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{what} {name!r}: expected letters, digits, '.', '_' and '-' only. Rename it.")


def _require_same_data(path: Path, fingerprint: Mapping[str, Any]) -> None:
    stored = load_json(path / "manifest.json").get("fingerprint", {})
    if stored == fingerprint:
        return
    changed = differences(stored, fingerprint)
    changed += [f"{key} is only in the store" for key in stored if key not in fingerprint]
    changed += [f"{key} is not in the store" for key in fingerprint if key not in stored]
    raise UserError(f"store at {path}: was made from other data: {'; '.join(changed)}. Choose another store path.")


def _write_all(folder: Path, sources: Iterable[tuple[str, str, Iterable[RowLike]]]) -> dict[str, Any]:
    (folder / "texts").mkdir(parents=True)
    roles: dict[str, _RowTable] = {}
    with (
        ArrayStream(folder / "texts" / "values.npy", np.uint8) as values,
        Progress("read rows", None, unit="rows") as progress,
    ):
        texts = _TextTable(values)
        for name, role, rows in sources:
            require_name(role, what="role")
            table = roles.setdefault(role, _RowTable(role))
            before = len(table)
            for row in rows:
                table.append(row, name, texts)
                if len(table) % _PIECE == 0:
                    progress.advance(_PIECE)
            table.sources.append({"name": name, "rows": len(table) - before})
    empty = [role for role, table in roles.items() if not len(table)]
    if empty or not roles:
        raise UserError(f"data: {', '.join(empty) or 'no source'}: no rows. Each role needs at least one row.")
    labels = numbered(label for table in roles.values() for label in table.labels)
    return {
        "texts": texts.save(folder / "texts"),
        "roles": {role: table.save(folder / "rows" / role, labels) for role, table in roles.items()},
        **({"labels": list(labels)} if labels else {}),
    }


def numbered(labels: Iterable[str]) -> dict[str, int]:
    """Label -> index, sorted by value if all labels are whole numbers, otherwise alphabetically.

    Indices thus do not depend on the order of the rows.

    Example:
      >>> numbered(["10", "9", "10"]), numbered(["no", "maybe"])
      ({'9': 0, '10': 1}, {'maybe': 0, 'no': 1})
    """
    found = set(labels)
    whole = all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in found)
    ordered = sorted(found, key=lambda label: (int(label), label)) if whole else sorted(found)
    return {label: number for number, label in enumerate(ordered)}


class _TextTable:
    """Deduplicates and numbers texts. Keeps a 16-byte hash and an id per text in memory, not the text."""

    def __init__(self, values: ArrayStream) -> None:
        self.offsets = array("q", [0])
        self._numbers: dict[bytes, int] = {}
        self._values = values

    def number(self, text: str, source: str) -> int:
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"data.{source}: the text {text[:60]!r} is not valid Unicode: {error.reason}. Repair the text."
            ) from None
        # With 128 bits, a collision is not to be expected even among billions of texts.
        key = hashlib.sha256(data).digest()[:16]
        number = self._numbers.setdefault(key, len(self._numbers))
        # `setdefault` has given a new number: the text's first occurrence.
        if number == len(self.offsets) - 1:
            self._values.append(data)
            self.offsets.append(self.offsets[-1] + len(data))
        return number

    def save(self, folder: Path) -> dict[str, Any]:
        hashes = {
            "values": sha256_of(folder / "values.npy"),
            "offsets": save_array(folder / "offsets.npy", np.asarray(self.offsets, np.int64)),
        }
        both = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
        return {"count": len(self._numbers), "bytes": self.offsets[-1], "sha256": both, "files": hashes}


class _Parts(NamedTuple):
    """Properties that all rows of a role share."""

    query: bool
    negatives: int
    scores: int
    label: bool


class _RowTable:
    """The rows of one role; all must have the same parts."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.sources: list[dict[str, Any]] = []
        self.parts: _Parts | None = None
        self.queries, self.documents, self.scores = array("i"), array("i"), array("f")
        self.labels: dict[str, int] = {}
        """Label -> index by first occurrence."""
        self.classes = array("i")

    def __len__(self) -> int:
        return 0 if self.parts is None else len(self.documents) // (1 + self.parts.negatives)

    def append(self, row: RowLike, source: str, texts: _TextTable) -> None:
        scores = () if row.score is None else row.score if isinstance(row.score, tuple) else (row.score,)
        parts = _Parts(row.query is not None, len(row.negatives), len(scores), row.label is not None)
        if self.parts is None:
            # Checked at the first row only: all others must have as many.
            if row.score is not None and len(scores) not in (1, len(row.negatives), 1 + len(row.negatives)):
                raise UserError(
                    f"data.{source}: its rows have {_told(parts)}. Expected 1 score, or one for the document and each "
                    "negative, or one for each negative."
                )
            self.parts = parts
        elif parts != self.parts:
            raise UserError(
                f"data.{source}: its rows have {_told(parts)}, but earlier rows of the role '{self.role}' have "
                f"{_told(self.parts)}. Map the same columns in every source of a role, or use a separate store."
            )
        if row.query is not None:
            self.queries.append(texts.number(row.query, source))
        self.documents.append(texts.number(row.document, source))
        self.documents.extend([texts.number(text, source) for text in row.negatives])
        self.scores.extend(scores)
        if row.label is not None:
            self.classes.append(self.labels.setdefault(row.label, len(self.labels)))

    def save(self, folder: Path, labels: Mapping[str, int]) -> dict[str, Any]:
        """Write the arrays; `labels` are the indices shared by all roles."""
        assert self.parts is not None
        folder.mkdir(parents=True)
        width = 1 + self.parts.negatives
        documents = np.asarray(self.documents, np.int32).reshape(-1, width)
        arrays: dict[str, np.ndarray] = {"documents": documents}
        if self.parts.query:
            arrays["queries"] = np.asarray(self.queries, np.int32)
        if self.parts.scores:
            arrays["scores"] = np.asarray(self.scores, np.float32).reshape(-1, self.parts.scores)
        if self.parts.label:
            # Index by first occurrence in this role -> index in the manifest, which all roles share.
            shared = np.asarray([labels[label] for label in self.labels], np.int32)
            arrays["labels"] = shared[np.asarray(self.classes, np.int32)]
        hashes = {name: save_array(folder / f"{name}.npy", value) for name, value in arrays.items()}
        return {"rows": len(documents), "documents": width, "sources": self.sources, "files": hashes}


def _told(parts: _Parts) -> str:
    pair = "a query and a document" if parts.query else "a plain text"
    scores = f"{parts.scores or 'no'} score{'s' if parts.scores > 1 else ''}"
    return f"{pair}, {parts.negatives} negatives and {scores}" + (", and a label" if parts.label else "")
