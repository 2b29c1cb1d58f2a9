"""Queue of rows for batches in which no text occurs twice.

A row that shares a text with the batch being filled is parked in a queue for that text. The next batch checks the head
of each such queue instead of every parked row, so the work per batch is bounded by the batch, not by the number of
duplicates.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

Texts = Mapping[int, tuple[int, ...]]
"""Row -> those of its texts that occur in other rows too. Rows without such texts are absent: they fit every batch."""


def shared_texts(texts: Int[np.ndarray, "n t"]) -> Texts:
    """The texts of each row that occur in other rows too.

    Args:
      texts: ids of all texts of each row, `[n, t]`; a row may contain a text twice.
    """
    ordered = np.sort(texts, axis=1)
    first = np.ones_like(ordered, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rows_of_text = np.bincount(ordered[first])
    shared = first & (rows_of_text[ordered] > 1)
    rows, columns = np.nonzero(shared)
    numbers, starts = np.unique(rows, return_index=True)
    values = ordered[rows, columns].tolist()
    ends = [*starts[1:].tolist(), len(values)] if len(values) else []
    return {
        row: tuple(values[start:end]) for row, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True)
    }


class DeferredRows:
    """A queue of rows; batches take them in order, except rows that share a text with the batch."""

    def __init__(self, rows: Int[np.ndarray, " n"], texts: Texts):
        self._rows = rows
        self._texts = texts
        self._next = 0
        self._parked: dict[int, deque[int]] = {}
        self._parked_rows = 0

    def __len__(self) -> int:
        return max(len(self._rows) - self._next, 0) + self._parked_rows

    def take(self, size: int) -> list[int]:
        """The next batch: `size` rows, or fewer if no other waiting row fits."""
        if not self._texts:
            self._next += size
            return self._rows[self._next - size : self._next].tolist()
        batch: list[int] = []
        seen: set[int] = set()
        self._from_parked(batch, seen, size)
        while len(batch) < size and self._next < len(self._rows):
            self._place(int(self._rows[self._next]), batch, seen)
            self._next += 1
        return batch

    def rest(self) -> Int[np.ndarray, " rows"]:
        """All remaining rows; the queue is empty afterwards."""
        parked = [row for line in self._parked.values() for row in line]
        rest = np.concatenate([np.array(parked, np.int32), self._rows[self._next :].astype(np.int32)])
        self._parked, self._parked_rows, self._next = {}, 0, len(self._rows)
        return rest

    def _from_parked(self, batch: list[int], seen: set[int], size: int) -> None:
        for text in list(self._parked):  # in order of creation: the longest waiting first
            line = self._parked[text]
            while line and text not in seen and len(batch) < size:
                self._parked_rows -= 1
                self._place(line.popleft(), batch, seen)
            if not line:
                del self._parked[text]
            if len(batch) == size:
                return

    def _place(self, row: int, batch: list[int], seen: set[int]) -> None:
        """Add the row to the batch, or park it under the text that conflicts."""
        texts = self._texts.get(row, ())
        for text in texts:
            if text in seen:
                self._parked.setdefault(text, deque()).append(row)
                self._parked_rows += 1
                return
        batch.append(row)
        seen.update(texts)
