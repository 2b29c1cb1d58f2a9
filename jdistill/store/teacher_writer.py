"""Writes a teacher's vectors shard by shard; interruptions and multiple processes do not change the result's bytes.

The plan comes first: every prompted text that some row needs, once, in a fixed order, divided into shards of equal
size. The shards are written independently, in any order and by any process. The process that finds all shards complete
writes the manifest. See vectors.py for the files.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jdistill.config import UserError
from jdistill.store.check import require_description
from jdistill.store.files import as_stored, load_json, open_array, remove_stale, save_array, save_json
from jdistill.store.reader import Store
from jdistill.store.vectors import DTYPES, SIDES, SideName, Stored, shard_name, to_float32, to_stored
from jdistill.store.writer import require_name

SHARD_ROWS = 8192
_FEWEST_TO_COMPARE = 16  # a few texts may be equal after tokenization, and then have equal vectors


class Prompted(NamedTuple):
    """A teacher's input, `prompt + text`, in two parts."""

    side: SideName
    prompt: str
    text: str


class TeacherWriter:
    """Writes the vectors of one teacher.

    Args:
      store: the store to read texts from and write vectors to.
      name: the teacher's name in the config.
      description: JSON value that determines the vectors. Requires `prompts: {query, document}`, `width` (int) and
        `dtype` (float32, float16, bfloat16 or int8). With `routes: "per side"` the sides never share a vector, because
        the model treats them differently; otherwise a text with the same prompt on both sides has one vector.
      shard_rows: vectors per shard; ignored for a teacher that already has a plan.
      origin: source of imported vectors, such as "a data set"; None if a model computes them here. Stored in the
        manifest, since the description of imported vectors cannot be verified.

    Raises:
      UserError: if the store has vectors of this name with other settings, naming each differing field, or if imported
        vectors would be mixed with others.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        description: Mapping[str, Any],
        *,
        shard_rows: int = SHARD_ROWS,
        origin: str | None = None,
    ) -> None:
        require_name(name, what="teacher")
        self.store = store
        self.name = name
        self.folder = store.path / "teachers" / name
        self.description = as_stored(description)
        if self.description["dtype"] not in DTYPES:
            raise UserError(
                f"teacher '{name}': dtype is {description['dtype']!r}, expected one of {', '.join(DTYPES)}."
            )
        (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        # Processes of the same settings that start together write the same bytes, so it does not matter whose plan
        # stays.
        if not (self.folder / "plan.json").is_file():
            self._write_plan(shard_rows, origin)
        self.plan = load_json(self.folder / "plan.json")
        # The plan's description, not this process's: an earlier one may have written it.
        require_description(store, name, self.plan["description"], self.description)
        if self.plan["texts"] != store.texts.sha256:
            raise UserError(
                f"store at {store.path}: the vectors of teacher '{name}' belong to a different set of texts. "
                f"Move {self.folder} aside and rerun `jdistill embed`."
            )
        # A complete teacher takes no further vectors, whatever their origin.
        if self.missing() and self.plan.get("origin") != origin:
            first, now = self.plan.get("origin") or "a model", origin or "a model"
            raise UserError(
                f"store at {store.path}: teacher '{name}' was started with vectors of {first}, but these are of {now}. "
                f"Move {self.folder} aside, or choose another teacher name."
            )
        self._texts = open_array(self.folder / "texts.npy")

    @property
    def shards(self) -> int:
        """Number of shards: `shard_rows` vectors each, the last one possibly fewer."""
        return self.plan["shards"]

    @property
    def rows(self) -> int:
        """Number of vectors in all shards; a vector shared by both sides counts once."""
        return self.plan["rows"]

    def missing(self) -> list[int]:
        """Indices of shards not written yet, ascending."""
        return [shard for shard in range(self.shards) if not self._sidecar(shard).is_file()]

    def size(self, shard: int) -> int:
        """Number of vectors of one shard."""
        first = shard * self.plan["shard_rows"]
        return min(self.plan["shard_rows"], self.rows - first)

    def texts(self, shard: int) -> list[Prompted]:
        """The texts to embed for one shard, in the order of its vectors."""
        first = shard * self.plan["shard_rows"]
        numbers = self._texts[first : first + self.size(shard)]
        # Queries come first in the plan, so the row number tells the side.
        sides: list[SideName] = [
            "query" if first + i < self.plan["query_rows"] else "document" for i in range(len(numbers))
        ]
        prompts = self.description["prompts"]
        texts = self.store.texts.take(numbers)
        return [Prompted(side, prompts[side], text) for side, text in zip(sides, texts, strict=True)]

    def write(self, shard: int, vectors: Float[np.ndarray, "s d"]) -> None:
        """Write one shard, atomically and durably.

        Args:
          shard: its index.
          vectors: float32, in the order of `texts(shard)`.

        Raises:
          UserError: if the shape differs from the described one, a vector is zero or not finite (before or after
            rounding to the stored dtype), or all vectors are equal.
        """
        vectors = np.asarray(vectors, np.float32)
        stored = self._checked(shard, vectors)
        path = self.folder / "shards" / shard_name(shard)
        files = {"values": save_array(path.with_suffix(".npy"), stored.values)}
        if stored.scales is not None:
            files["scales"] = save_array(path.with_suffix(".scales.npy"), stored.scales)
        # After the values: it marks the shard as complete.
        save_json(self._sidecar(shard), {"rows": len(vectors), "files": files})

    def finish(self) -> bool:
        """Write the manifest and return True if all shards are complete; otherwise return False."""
        if self.missing():
            return False
        hashes = [load_json(self._sidecar(shard), aside=self.folder) for shard in range(self.shards)]
        save_json(self.folder / "manifest.json", {**self.plan, "hashes": hashes})
        # No process writes to a complete teacher, so temporary files of other machines are leftovers, too.
        remove_stale(self.folder, all_hosts=True)
        return True

    def _sidecar(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard_name(shard)}.json"

    def _checked(self, shard: int, vectors: Float[np.ndarray, "s d"]) -> Stored:
        where, expected = f"teacher '{self.name}'", (self.size(shard), self.description["width"])
        if vectors.shape != expected:
            raise UserError(
                f"{where}: returned vectors {list(vectors.shape)}, expected {list(expected)} for shard {shard}. "
                f"The model's width has changed; move {self.folder} aside and rerun `jdistill embed`."
            )
        # Checked as stored, since float16 overflows above 65,504.
        stored = to_stored(vectors, self.description["dtype"])
        with np.errstate(invalid="ignore"):
            rounded = to_float32(stored, self.description["dtype"])
        finite = np.all(np.isfinite(rounded), axis=1).reshape(-1)
        bad = np.flatnonzero(~finite | ~vectors.any(axis=1))
        if len(bad):
            what = "all zeros" if finite[bad[0]] else "NaN or infinite"
            text = self.texts(shard)[bad[0]]
            raise UserError(
                f"{where}: the vector of the {text.side} {(text.prompt + text.text)[:80]!r} is {what} "
                f"({len(bad)} of {len(vectors)} texts of shard {shard}). Set precision: float32 or dtype: float32, "
                "or remove the text from the data."
            )
        if len(vectors) >= _FEWEST_TO_COMPARE and (vectors == vectors[0]).all():
            raise UserError(
                f"{where}: returned the same vector for all {len(vectors)} texts of shard {shard}. "
                "Its weights are damaged or were not loaded; check the model."
            )
        return stored

    def _write_plan(self, shard_rows: int, origin: str | None) -> None:
        """Write what to embed in which order: queries by text id, then documents by text id, each key once."""
        texts = self.store.texts
        keys: list[bytes] = []
        owners: list[int] = []
        index = {side: np.full(len(texts), -1, np.int32) for side in SIDES}
        row_of: dict[bytes, int] = {}
        query_rows = 0
        for side, ids in self._needed():
            # The model treats sides differently, so a text has a vector for each.
            if self.description.get("routes") == "per side":
                row_of = {}
            for number, key in zip(ids.tolist(), prompted_keys(texts, ids, self._prompt(side)), strict=True):
                row = row_of.setdefault(key, len(keys))
                if row == len(keys):
                    keys.append(key)
                    owners.append(number)
                index[side][number] = row
            query_rows = len(keys) if side == "query" else query_rows
        if not self._sides_differ():  # both sides share vectors, even if no row needs both
            # -1 where a side has no row; where both have one, it is the same.
            index["query"] = index["document"] = np.maximum(index["query"], index["document"])
        save_array(self.folder / "keys.npy", np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16))
        save_array(self.folder / "texts.npy", np.asarray(owners, np.int32))
        for side, rows in index.items():
            save_array(self.folder / f"index.{side}.npy", rows)
        plan = {
            "description": self.description,
            "texts": texts.sha256,
            "rows": len(keys),
            "query_rows": query_rows,
            "shard_rows": shard_rows,
            "shards": -(-len(keys) // shard_rows),
            **({} if origin is None else {"origin": origin}),
        }
        save_json(self.folder / "plan.json", plan)

    def _needed(self) -> Iterator[tuple[SideName, Int[np.ndarray, " n"]]]:
        rows = [self.store.rows(role) for role in self.store.roles]
        queries = [part.queries for part in rows if part.queries is not None]
        if queries:
            yield "query", np.unique(np.concatenate(queries))
        yield "document", np.unique(np.concatenate([part.documents.reshape(-1) for part in rows]))

    def _prompt(self, side: SideName) -> str:
        return self.description["prompts"][side]

    def _sides_differ(self) -> bool:
        return self.description.get("routes") == "per side" or self._prompt("query") != self._prompt("document")


def prompted_keys(texts: Any, ids: Int[np.ndarray, " n"], prompt: str) -> Iterator[bytes]:
    """First 16 bytes of the sha256 of `prompt + text`, for each text id."""
    # The prompt is hashed once and its state copied for each text.
    start = hashlib.sha256(prompt.encode("utf-8"))
    for first in range(0, len(ids), 8192):
        for text in texts.take(ids[first : first + 8192]):
            digest = start.copy()
            digest.update(text.encode("utf-8"))
            yield digest.digest()[:16]
