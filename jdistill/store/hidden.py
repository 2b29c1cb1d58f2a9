"""Cache of hidden states: outputs of a frozen encoder for the tokens of every text, computed once.

    hidden/KEY/shards/00000.npy    [t, d]: hidden states of the tokens of consecutive texts
    hidden/KEY/shards/00000.json   texts, tokens and sha256 of the shard; written after it, marks it as complete
    hidden/KEY/offsets.npy         int64 [N + 1]: text i has tokens offsets[i] to offsets[i + 1] - 1
    hidden/KEY/firsts.npy          int64 [shards]: the first text of each shard
    hidden/KEY/manifest.json       the content that KEY hashes; written last, marks the cache as complete

Values are stored without loss in the encoder's output dtype: float32, or bfloat16, which .npy does not support, as its
bit pattern in uint16. KEY hashes the encoder, its weights and the token cache.
"""

import hashlib
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

from jdistill.config import UserError
from jdistill.store.files import load_json, open_array, remove_stale, save_array, save_json
from jdistill.store.tokens import TokenTable
from jdistill.store.vectors import shard_name

SHARD_BYTES = 128 * 2**20
"""Approximate shard size; an interrupted process loses at most one shard."""
FORMAT = 1

_LAID_OUT = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}


class HiddenTable:
    """The hidden states of all texts in a token cache, memory-mapped. Cheap to pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = load_json(folder / "manifest.json")
        self.dtype: str = manifest["dtype"]
        """Stored type: float32 or bfloat16."""
        self.width: int = manifest["width"]
        self._offsets = open_array(folder / "offsets.npy")
        self._firsts = open_array(folder / "firsts.npy")
        # A cache of this object: as a decorator, it would keep every object alive.
        self._shard = lru_cache(maxsize=None)(self._open_shard)

    @property
    def fingerprint(self) -> str:
        """Equal for tables with the same hidden states."""
        return self.folder.name

    def pad(self, ids: Int[np.ndarray, "*shape"], length: int) -> Float[np.ndarray, "*shape length d"]:
        """The hidden states of these texts, in their stored dtype, zero-padded to `length`.

        Raises:
          ValueError: if a text has more than `length` tokens.
        """
        ids = np.asarray(ids)
        texts = ids.reshape(-1)
        starts, ends = self._offsets[texts], self._offsets[texts + 1]
        lengths = ends - starts
        if lengths.max(initial=0) > length:
            raise ValueError(f"a text of {lengths.max()} tokens does not fit into {length}")
        # The bits of 0.0 are zeros in bfloat16 as well.
        padded = np.zeros((len(texts), length, self.width), _LAID_OUT[self.dtype])
        shards = np.searchsorted(self._firsts, texts, side="right") - 1
        for i in np.flatnonzero(lengths).tolist():
            shard = int(shards[i])
            start = starts[i] - self._offsets[self._firsts[shard]]
            padded[i, : lengths[i]] = self._shard(shard)[start : start + lengths[i]]
        padded = padded.view(ml_dtypes.bfloat16) if self.dtype == "bfloat16" else padded
        return padded.reshape(*ids.shape, length, self.width)

    def _open_shard(self, shard: int) -> np.ndarray:
        path = self.folder / "shards" / f"{shard_name(shard)}.npy"
        values = open_array(path)
        end = self._firsts[shard + 1] if shard + 1 < len(self._firsts) else -1
        expected = (int(self._offsets[end] - self._offsets[self._firsts[shard]]), self.width)
        if values.shape != expected or values.dtype != _LAID_OUT[self.dtype]:
            raise UserError(
                f"{path}: is {values.dtype} {list(values.shape)}, expected {_LAID_OUT[self.dtype]} {list(expected)}. "
                f"Move {self.folder} aside; the next run rebuilds it."
            )
        return values

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens the files itself
        return HiddenTable, (self.folder,)


class HiddenWriter:
    """Writes the hidden states of all texts of a token cache; resumes after an interruption.

    Args:
      store_path: folder of the store.
      tokens: the encoder's input.
      encoder: hash of everything that determines the encoder's output.
      width: numbers per token.
      dtype: float32 or bfloat16.
      shard_bytes: approximate shard size; part of the key, since it determines the shard boundaries.
    """

    def __init__(
        self,
        store_path: str | Path,
        tokens: TokenTable,
        *,
        encoder: str,
        width: int,
        dtype: str,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._identity = {
            "format": FORMAT,
            "tokens": tokens.folder.name,
            "encoder": encoder,
            "width": width,
            "dtype": dtype,
            "shard_bytes": shard_bytes,
        }
        key = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(store_path) / "hidden" / key
        self.dtype = dtype
        self.width = width
        self._lengths = tokens.lengths
        self._offsets = np.concatenate([[0], np.cumsum(tokens.lengths, dtype=np.int64)])
        used = np.flatnonzero(tokens.lengths)
        tokens_per_shard = max(1, shard_bytes // (width * _LAID_OUT[dtype].itemsize))
        # A shard begins at the first text that starts in the next `tokens_per_shard` tokens; texts are never split.
        begins = np.diff(self._offsets[used] // tokens_per_shard, prepend=-1) > 0
        self._shards = np.split(used, np.flatnonzero(begins)[1:])

    @property
    def complete(self) -> bool:
        """Whether all shards and the manifest are written."""
        return (self.folder / "manifest.json").is_file()

    @property
    def bytes_missing(self) -> int:
        """Total size of the missing shards."""
        tokens = sum(int(self._lengths[self.texts(shard)].sum()) for shard in self.missing())
        return tokens * self.width * _LAID_OUT[self.dtype].itemsize

    def missing(self) -> list[int]:
        """Indices of shards not written yet, ascending."""
        return [shard for shard in range(len(self._shards)) if not self._path(shard).with_suffix(".json").is_file()]

    def texts(self, shard: int) -> Int[np.ndarray, " t"]:
        """Ids of the texts of one shard, ascending."""
        return self._shards[shard]

    @property
    def text_count(self) -> int:
        """Number of texts in all shards."""
        return sum(map(len, self._shards))

    def begin(self) -> None:
        """Create the folder, and delete temporary files of interrupted processes.

        Raises:
          UserError: if the disk is too small for the missing shards.
        """
        (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        missing, free = self.bytes_missing, shutil.disk_usage(self.folder).free
        if missing > free:
            raise UserError(
                f"{self.folder}: the hidden states of {self.text_count:,} texts need {missing / 1e9:.1f} GB more, but "
                f"the disk has {free / 1e9:.1f} GB left. Free some space, lower student.max_length, or set "
                "student.backbone to frozen, which stores nothing."
            )

    def write(self, shard: int, hidden: Float[np.ndarray, "t d"]) -> None:
        """Write one shard, atomically and durably.

        Args:
          shard: its index.
          hidden: hidden states of the tokens of `texts(shard)`, concatenated, in the stored dtype.

        Raises:
          ValueError: if the shape does not match.
          UserError: if a value is not finite.
        """
        texts = self.texts(shard)
        expected = (int(self._lengths[texts].sum()), self.width)
        if hidden.shape != expected:
            raise ValueError(f"shard {shard} needs hidden states {expected}, not {hidden.shape}")
        if not np.isfinite(hidden).all():
            raise UserError(
                f"student: the encoder's hidden states of texts {texts[0]} to {texts[-1]} of the store contain NaN or "
                "infinity. Check the weights of student.init, or set student.dtype to float32."
            )
        stored = hidden.view(np.uint16) if self.dtype == "bfloat16" else hidden
        digest = save_array(self._path(shard).with_suffix(".npy"), stored)
        sidecar = {"texts": len(texts), "tokens": len(hidden), "sha256": digest}
        save_json(self._path(shard).with_suffix(".json"), sidecar)

    def finish(self) -> HiddenTable:
        """Write the manifest and return the complete cache.

        Raises:
          ValueError: if a shard is missing.
        """
        if not self.complete:
            if missing := self.missing():
                raise ValueError(f"{len(missing)} shards are missing, the first is {missing[0]}")
            save_array(self.folder / "offsets.npy", self._offsets)
            save_array(self.folder / "firsts.npy", np.array([texts[0] for texts in self._shards], np.int64))
            save_json(self.folder / "manifest.json", self._identity)
        return HiddenTable(self.folder)

    def _path(self, shard: int) -> Path:
        return self.folder / "shards" / shard_name(shard)
