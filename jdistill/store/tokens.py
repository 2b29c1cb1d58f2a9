"""Token cache: every text is tokenized once per tokenizer, prompt and length, and then read from disk.

    tokens/KEY/values.npy      int32: the tokens of all texts, concatenated
    tokens/KEY/offsets.npy     int64 [N + 1]: text i is values[offsets[i]:offsets[i + 1]]; empty for unused texts
    tokens/KEY/manifest.json   the content that KEY hashes, and the padding id

The folder is written under a temporary name and renamed when complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int

from jdistill.progress import Progress
from jdistill.store.files import (
    ArrayStream,
    load_json,
    open_array,
    remove_stale,
    save_array,
    save_json,
    sync_folder,
    temporary,
)
from jdistill.store.reader import Texts

_BATCH = 4096


class TokenizerLike(Protocol):
    """What the cache asks of a tokenizer."""

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that produce the same tokens."""
        ...

    @property
    def pad_id(self) -> int:
        """Id written at padding, which is masked."""
        ...

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Token ids of each text, special tokens included, truncated to `max_length` tokens."""
        ...


class TokenTable:
    """The tokens of all texts of a store, memory-mapped. Cheap to open and to pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pad_id: int = load_json(folder / "manifest.json")["pad_id"]
        self._offsets = open_array(folder / "offsets.npy")
        values = folder / "values.npy"
        # An empty file cannot be mapped; it occurs if no text has a token.
        self._values = open_array(values) if self._offsets[-1] else np.zeros(1, np.int32)
        self.lengths: Int[np.ndarray, " N"] = np.diff(self._offsets).astype(np.int32)
        """int32 `[N]`: number of tokens of each text, special tokens included; 0 for unused texts."""

    def pad(
        self, ids: Int[np.ndarray, "*shape"], length: int
    ) -> tuple[Int[np.ndarray, "*shape length"], Bool[np.ndarray, "*shape length"]]:
        """The tokens of these texts as int32, padded to `length`, and a mask that is True at real tokens.

        Raises:
          ValueError: if a text has more than `length` tokens; truncating here would drop its last special token.
        """
        ids = np.asarray(ids)
        lengths = self.lengths[ids]
        if lengths.size and lengths.max() > length:
            raise ValueError(f"a text of {lengths.max()} tokens does not fit into {length}")
        places = np.arange(length)
        mask = places < lengths[..., None]
        # Any valid index does at padding.
        where = np.where(mask, self._offsets[ids][..., None] + places, 0)
        return np.where(mask, self._values[where], np.int32(self.pad_id)), mask

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens the files itself
        return TokenTable, (self.folder,)


def token_table(
    store_path: str | Path,
    texts: Texts,
    *,
    tokenizer: TokenizerLike,
    prompt: str,
    max_length: int,
    ids: Iterable[int] | Int[np.ndarray, "..."],
) -> TokenTable:
    """The tokens of the texts `ids`, read from the cache or computed now.

    Args:
      store_path: folder of the store.
      texts: the store's texts.
      tokenizer: the student's tokenizer.
      prompt: prepended to each text.
      max_length: maximum number of tokens, prompt and special tokens included.
      ids: ids of the texts to tokenize, in any order, repetitions allowed; other texts get no tokens.
    """
    used = np.unique(ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64))
    identity = {
        "tokenizer": tokenizer.fingerprint,
        "prompt": prompt,
        "max_length": max_length,
        "texts": texts.sha256,
        "ids": hashlib.sha256(used.astype("<i8").tobytes()).hexdigest(),
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(store_path) / "tokens" / key
    if not (folder / "manifest.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(folder.parent)
        made = temporary(folder)
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        _write(made, texts, used, tokenizer, prompt, max_length)
        save_json(made / "manifest.json", {**identity, "pad_id": tokenizer.pad_id})
        try:
            os.rename(made, folder)
        except OSError:  # another process was faster
            if not (folder / "manifest.json").is_file():
                raise
            shutil.rmtree(made, ignore_errors=True)
        sync_folder(folder.parent)
    return TokenTable(folder)


def _write(
    folder: Path, texts: Texts, used: Int[np.ndarray, " u"], tokenizer: TokenizerLike, prompt: str, max_length: int
) -> None:
    lengths = np.zeros(len(texts), np.int64)
    with ArrayStream(folder / "values.npy", np.int32) as values, Progress("tokenize", len(used)) as progress:
        for first in range(0, len(used), _BATCH):
            ids = used[first : first + _BATCH]
            tokens = tokenizer.encode([prompt + text for text in texts.take(ids)], max_length)
            lengths[ids] = [len(row) for row in tokens]
            if lengths[ids].max() > max_length:
                raise ValueError(f"the tokenizer returned {lengths[ids].max()} tokens, but max_length is {max_length}")
            values.append(np.asarray([token for row in tokens for token in row], np.int32))
            progress.advance(len(ids))
    save_array(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
