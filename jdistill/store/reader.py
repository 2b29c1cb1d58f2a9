"""Reading a store: texts, rows and teacher vectors, memory-mapped and checked."""

import difflib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int

from jdistill.config import UserError
from jdistill.store.files import load_json, open_array
from jdistill.store.vectors import TeacherVectors
from jdistill.store.writer import FORMAT


class Rows(NamedTuple):
    """The rows of one role, as text ids."""

    queries: Int[np.ndarray, " n"] | None
    """int32; None if rows are plain texts."""
    documents: Int[np.ndarray, "n c"]
    """int32; each row's document, followed by its hard negatives."""
    scores: Float[np.ndarray, "n s"] | None
    """float32; one score per row, per document, or per hard negative; None without scores."""
    labels: Int[np.ndarray, " n"] | None = None
    """int32; the class of each row, an index into `Store.labels`; None without labels."""


class Texts:
    """All texts of a store, by id."""

    def __init__(self, folder: Path, sha256: str) -> None:
        self.folder = folder
        self.sha256 = sha256
        """Hash of all texts; derived data is keyed by it."""
        self._offsets = open_array(folder / "offsets.npy", aside=folder.parent)
        # As a memoryview, whose slices cost less than arrays.
        self._values = open_array(folder / "values.npy", aside=folder.parent).data

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self):
            raise IndexError(f"text {number} of {len(self)}")
        return str(self._values[self._offsets[number] : self._offsets[number + 1]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), 8192):
            yield from self.take(np.arange(first, min(first + 8192, len(self))))

    def take(self, ids: Int[np.ndarray, " n"]) -> list[str]:
        """The texts with these ids, in this order."""
        ids = np.asarray(ids)
        starts, ends = self._offsets[ids].tolist(), self._offsets[ids + 1].tolist()
        return [str(self._values[a:b], "utf-8") for a, b in zip(starts, ends, strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens the files itself
        return Texts, (self.folder, self.sha256)


class Store:
    """Texts, rows and teacher vectors of one data set; use `Store.open`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store written by `write_texts`.

        Raises:
          UserError: if there is no complete store, or it has another format.
        """
        path = Path(path)
        if not (path / "manifest.json").is_file():
            state = "is incomplete" if (path / "texts").is_dir() else "does not exist"
            raise UserError(f"store at {path}: {state}. Create it with `jdistill embed`, or choose another path.")
        manifest = load_json(path / "manifest.json", keys=("format", "texts", "roles"))
        if manifest.get("format") != FORMAT:
            raise UserError(
                f"store at {path}: has format {manifest.get('format')}, but this version reads format {FORMAT}. "
                "Use the version of jdistill that wrote it, or rebuild it."
            )
        return cls(path, manifest)

    @cached_property
    def texts(self) -> Texts:
        """All texts, by id."""
        return Texts(self.path / "texts", self.manifest["texts"]["sha256"])

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the parts of the data, such as `train` and `heldout`."""
        return tuple(self.manifest["roles"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, by index; empty without labels."""
        return tuple(self.manifest.get("labels", ()))

    def rows(self, role: str) -> Rows:
        """The rows of one role, memory-mapped.

        Raises:
          UserError: if the store has no such role.
        """
        if role not in self.roles:
            raise UserError(
                f"store at {self.path}: has no rows of the role '{role}'. It has: {', '.join(self.roles)}. "
                f"Set the role '{role}' for a source in 'data', and rebuild the store."
            )
        folder, files = self.path / "rows" / role, self.manifest["roles"][role]["files"]
        parts = {
            part: open_array(folder / f"{part}.npy", aside=self.path) if part in files else None
            for part in ("queries", "documents", "scores", "labels")
        }
        assert parts["documents"] is not None
        return Rows(parts["queries"], parts["documents"], parts["scores"], parts["labels"])

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers whose vectors are complete, sorted."""
        return tuple(sorted(p.parent.name for p in (self.path / "teachers").glob("*/manifest.json")))

    def teacher(self, name: str) -> TeacherVectors:
        """The vectors of one teacher, memory-mapped.

        Raises:
          UserError: if they are missing or incomplete, or belong to a different set of texts.
        """
        folder = self.path / "teachers" / name
        if not (folder / "manifest.json").is_file():
            raise UserError(f"store at {self.path}: {self._why_not(name)}")
        vectors = TeacherVectors(folder)
        if vectors.manifest["texts"] != self.texts.sha256:
            raise UserError(
                f"store at {self.path}: the vectors of teacher '{name}' belong to a different set of texts. "
                f"Move {folder} aside and rerun `jdistill embed`."
            )
        return vectors

    def _why_not(self, name: str) -> str:
        folder = self.path / "teachers" / name
        if (folder / "plan.json").is_file():
            shards = load_json(folder / "plan.json")["shards"]
            done = len(list((folder / "shards").glob("*.json")))
            return f"teacher '{name}' is incomplete: {done} of {shards} shards. Rerun `jdistill embed` to resume."
        near = difflib.get_close_matches(name, self.teachers, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        known = ", ".join(self.teachers) or "none"
        return f"has no teacher '{name}'. It has: {known}.{hint} Run `jdistill embed` to add it."
