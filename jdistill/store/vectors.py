"""Teacher vectors on disk: storage format and reading.

    teachers/NAME/plan.json              description, texts, number of rows and shards, origin of imported vectors;
                                         written before any vector
    teachers/NAME/keys.npy               uint8 [u, 16]: per vector, first 16 bytes of the sha256 of its prompted text
    teachers/NAME/texts.npy              int32 [u]: per vector, the id of its text
    teachers/NAME/index.query.npy        int32 [N]: text -> row of its vector with the query prompt, or -1
    teachers/NAME/index.document.npy     the same with the document prompt
    teachers/NAME/shards/00000.npy       [s, d]: the vectors of rows 0 .. s - 1
    teachers/NAME/shards/00000.json      rows and sha256 of the shard; written after it, marks it as complete
    teachers/NAME/manifest.json          plan and every shard's sha256; written last, marks the teacher as complete

Stored dtypes: float32 and float16; bfloat16, which .npy does not support, as its bit pattern in uint16; int8 as
round(x / scale) with one float32 scale per row (00000.scales.npy): 1/127 of the row's largest absolute value, rounded
up to 16 significant bits, so that int8 -> float32 -> int8 is exact.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

from jdistill.config import UserError
from jdistill.store.files import load_json, open_array

SideName = Literal["query", "document"]
SIDES: tuple[SideName, SideName] = ("query", "document")

DTYPES = ("float32", "float16", "bfloat16", "int8")

MANIFEST_KEYS = ("texts", "description", "rows", "shard_rows", "query_rows", "hashes")
"""Required keys of a teacher's manifest."""


class Stored(NamedTuple):
    """Vectors as stored on disk."""

    values: np.ndarray
    """`[n, d]` float32, float16, uint16 (bfloat16's bits) or int8."""
    scales: Float[np.ndarray, " n"] | None
    """float32; for int8 only."""


def to_stored(vectors: Float[np.ndarray, "n d"], dtype: str) -> Stored:
    """Convert float32 vectors to a stored dtype, rounding to nearest even."""
    vectors = np.asarray(vectors, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # the writer checks that values are finite
        if dtype == "bfloat16":
            return Stored(vectors.astype(ml_dtypes.bfloat16).view(np.uint16), None)
        if dtype == "int8":
            scales = _round_up(np.abs(vectors).max(axis=1) / np.float32(127))
            # A zero vector has the scale 0.
            safe = np.where(scales > 0, scales, np.float32(1))
            return Stored(np.rint(vectors / safe[:, None]).astype(np.int8), scales)
        return Stored(vectors.astype(np.dtype(dtype)), None)


def to_float32(stored: Stored, dtype: str) -> Float[np.ndarray, "n d"]:
    """Convert stored vectors to float32; exact."""
    if dtype == "bfloat16":
        return stored.values.view(ml_dtypes.bfloat16).astype(np.float32)
    if stored.scales is not None:
        return stored.values.astype(np.float32) * stored.scales[:, None]
    return stored.values.astype(np.float32, copy=False)


def shard_name(shard: int) -> str:
    """File name of a shard, without suffix."""
    return f"{shard:05d}"


class TeacherVectors:
    """The vectors of one teacher, by text and side. Cheap to open and to pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = load_json(folder / "manifest.json", keys=MANIFEST_KEYS)
        description = self.manifest["description"]
        self.dtype: str = description["dtype"]
        """Stored dtype: float32, float16, bfloat16 or int8."""
        self.width: int = description["width"]
        self.origin: str | None = self.manifest.get("origin")
        """Source of imported vectors, such as "a data set"; None if the described model computed them."""
        self._shard_rows: int = self.manifest["shard_rows"]
        self._index = {side: open_array(folder / f"index.{side}.npy") for side in SIDES}
        # A cache of this object: as a decorator, it would keep every object alive.
        self._shard = lru_cache(maxsize=None)(self._open_shard)

    def __len__(self) -> int:
        """Number of vectors; a vector shared by both sides counts once."""
        return self.manifest["rows"]

    def take(self, ids: Int[np.ndarray, "*shape"], side: SideName) -> Float[np.ndarray, "*shape d"]:
        """The vectors of these texts, float32.

        Args:
          ids: text ids, of any shape.
          side: the side whose prompt was prepended.

        Raises:
          UserError: if the teacher lacks a vector for one of them on that side.
        """
        ids = np.asarray(ids)
        rows = self._index[side][ids.reshape(-1)].astype(np.int64)
        if rows.size and rows.min() < 0:
            missing = ids.reshape(-1)[rows < 0]
            raise UserError(
                f"{self.folder}: has no vector of text {missing[0]} as a {side} (missing: {len(missing)} of {ids.size} "
                "texts). The rows use it on the other side only; check the requested side."
            )
        return to_float32(self._gather(rows), self.dtype).reshape(*ids.shape, self.width)

    def of(self, texts: Sequence[str], side: SideName) -> Float[np.ndarray, "n d"] | None:
        """The vectors of arbitrary texts, float32, looked up by hash; None if any is missing.

        For texts without an id; `take` is faster.

        Args:
          texts: without prompts.
          side: the side whose prompt was prepended.
        """
        description = self.manifest["description"]
        prompt = description["prompts"][side]
        wanted = [hashlib.sha256((prompt + text).encode()).digest()[:16] for text in texts]
        rows = self._rows_of(set(wanted), side if description.get("routes") == "per side" else None)
        if not rows.keys() >= set(wanted):
            return None
        return to_float32(self._gather(np.array([rows[key] for key in wanted], np.int64)), self.dtype)

    def _rows_of(self, wanted: set[bytes], side: SideName | None) -> dict[bytes, int]:
        """Key -> row for the wanted keys that exist on that side, or with None on either side."""
        keys, queries = open_array(self.folder / "keys.npy"), self.manifest["query_rows"]
        first, last = {"query": (0, queries), "document": (queries, len(keys)), None: (0, len(keys))}[side]
        # The first 8 of a key's 16 bytes, as integers, find candidates fast; whole keys decide below.
        heads = np.frombuffer(b"".join(key[:8] for key in wanted), np.uint64)
        near = first + np.flatnonzero(np.isin(keys[first:last, :8].copy().view(np.uint64)[:, 0], heads))
        found = {keys[row].tobytes(): int(row) for row in near}
        return {key: row for key, row in found.items() if key in wanted}

    def shard(self, shard: int) -> Float[np.ndarray, "s d"]:
        """All vectors of one shard in the order of the plan, float32 `[s, d]`."""
        return to_float32(self._shard(shard), self.dtype)

    def require_whole(self) -> None:
        """Open every shard, so that a missing or truncated file is found before any work.

        Raises:
          UserError: naming the file.
        """
        for shard in range(-(-len(self) // self._shard_rows)):
            self._shard(shard)

    def _gather(self, rows: Int[np.ndarray, " n"]) -> Stored:
        values = np.empty((len(rows), self.width), _LAID_OUT[self.dtype])
        scales = np.empty(len(rows), np.float32) if self.dtype == "int8" else None
        order = np.argsort(rows, kind="stable")  # read each shard once, in order
        shards = rows[order] // self._shard_rows
        for part in np.split(order, np.flatnonzero(np.diff(shards)) + 1):
            if not len(part):
                continue
            shard, within = rows[part[0]] // self._shard_rows, rows[part] % self._shard_rows
            stored = self._shard(int(shard))
            values[part] = stored.values[within]
            if scales is not None and stored.scales is not None:
                scales[part] = stored.scales[within]
        return Stored(values, scales)

    def _open_shard(self, shard: int) -> Stored:
        name = self.folder / "shards" / shard_name(shard)
        values = open_array(name.with_suffix(".npy"), aside=self.folder)
        rows = min(self._shard_rows, len(self) - shard * self._shard_rows)
        if values.shape != (rows, self.width) or values.dtype != _LAID_OUT[self.dtype]:
            raise UserError(
                f"{name}.npy: is {values.dtype} {list(values.shape)}, expected {_LAID_OUT[self.dtype]} "
                f"[{rows}, {self.width}]. Restore it from a copy, or move {self.folder} aside and rerun "
                "`jdistill embed`."
            )
        return Stored(
            values, open_array(name.with_suffix(".scales.npy"), aside=self.folder) if self.dtype == "int8" else None
        )

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens the files itself
        return TeacherVectors, (self.folder,)


_LAID_OUT = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
}


def _round_up(scales: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The next float32 with 16 significant bits."""
    # Of 24 significant bits the last 8 become 0, rounded up. A carry into the exponent gives the next power of two, as
    # it should. Products with an int8 then need at most 23 bits, and are exact.
    bits = scales.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFF)) & np.uint32(0xFFFFFF00)).view(np.float32)
