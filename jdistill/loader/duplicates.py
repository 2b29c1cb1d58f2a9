"""Batches in which no text occurs twice.

`DeferredRows`: a row that shares a text with the batch being filled is parked in a queue for that text. The next batch
checks the head of each such queue instead of every parked row, so the work per batch is bounded by the batch, not by
the number of duplicates.

`merge`: towards the end of an epoch the waiting rows are those with frequent texts, which conflict with each other and
would need several short batches. Almost any row of an earlier batch can be exchanged with one of them.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from jdistill.loader.shapes import Buckets

_DONORS = 64
_PARTNERS = 64
"""Number of batches, and of rows in each, tried for a row; enough unless a text is in most batches."""

SharedTexts = Mapping[int, tuple[int, ...]]
"""Row -> those of its texts that occur in other rows too. Rows without such texts are absent: they fit every batch."""


def shared_texts(texts: Int[np.ndarray, "n t"]) -> SharedTexts:
    """The texts of each row that occur in other rows too.

    Args:
      texts: ids of all texts of each row, `[n, t]`; a row may contain a text twice.
    """
    ordered = np.sort(texts, axis=1)
    # The first occurrence of a text in its row: repeats within a row do not make it shared.
    first = np.ones_like(ordered, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rows_of_text = np.bincount(ordered[first])
    shared = first & (rows_of_text[ordered] > 1)
    rows, columns = np.nonzero(shared)
    # `nonzero` goes row by row, so the texts of a row are contiguous.
    numbers, starts = np.unique(rows, return_index=True)
    values = ordered[rows, columns].tolist()
    ends = [*starts[1:].tolist(), len(values)] if len(values) else []
    return {
        row: tuple(values[start:end]) for row, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True)
    }


class DeferredRows:
    """A queue of rows; batches take them in order, except rows that share a text with the batch."""

    def __init__(self, rows: Int[np.ndarray, " n"], texts: SharedTexts):
        self._rows = rows
        self._texts = texts
        self._next = 0
        self._parked: dict[int, deque[int]] = {}
        self._parked_rows = 0

    def __len__(self) -> int:
        return max(len(self._rows) - self._next, 0) + self._parked_rows

    def take(self, size: int) -> list[int]:
        """The next batch: `size` rows, or fewer if no other waiting row fits."""
        # Without shared texts every row fits.
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


def merge(
    short: list[list[int]], full: list[list[int]], buckets: Buckets, texts: SharedTexts, *, batch_rows: int
) -> None:
    """Move rows of the later short batches into the earlier ones as far as possible, in place.

    Args:
      short: batches that are not full.
      full: full batches, which stay full; their rows may be exchanged.
      buckets: a row only moves into a batch that is already padded to its length.
      texts: texts that must not occur in two rows of a batch.
      batch_rows: rows of a full batch.
    """
    donors = SwapPool(full, buckets, texts)
    first, target = 0, _Batch(short[0], buckets, texts)
    # Rows of the last short batch go to `first`, the one being filled, until the two meet. What fits nowhere stays.
    for last in range(len(short) - 1, 0, -1):
        if first >= last:
            break
        waiting, short[last] = short[last], []
        for row in waiting:
            if first < last and len(short[first]) == batch_rows:
                first += 1
                target = _Batch(short[first], buckets, texts) if first < last else target
            if first == last or not donors.place(row, target):
                short[last].append(row)


class _Batch:
    """A batch whose rows change: its texts, and its maximum lengths."""

    def __init__(self, rows: list[int], buckets: Buckets, texts: SharedTexts):
        self._rows = rows
        self._lengths = buckets.shapes[buckets.of_row[rows]].max(axis=0)
        self._buckets = buckets
        self._texts = texts
        self._seen = {text for row in rows for text in texts.get(row, ())}

    def takes(self, row: int) -> bool:
        """Whether the row neither shares a text with the batch nor makes it longer."""
        shorter = self._buckets.shapes[self._buckets.of_row[row]] <= self._lengths
        return self._seen.isdisjoint(self._texts.get(row, ())) and bool(shorter.all())

    def add(self, row: int) -> None:
        """Append a row that `takes` has accepted."""
        self._rows.append(row)
        self._seen.update(self._texts.get(row, ()))

    def exchange(self, place: int, row: int) -> None:
        """Replace the row at index `place`."""
        # No two rows of a batch share a text, so these texts leave the batch with their row.
        self._seen.difference_update(self._texts.get(self._rows[place], ()))
        self._seen.update(self._texts.get(row, ()))
        self._rows[place] = row


class SwapPool:
    """Full batches that can exchange a row for another."""

    def __init__(self, batches: list[list[int]], buckets: Buckets, texts: SharedTexts):
        self._batches = batches
        self._buckets = buckets
        self._texts = texts
        self._opened: dict[int, _Batch] = {}
        self._turn = 0

    def place(self, row: int, target: _Batch) -> bool:
        """Add to the target the row itself, or a donor's row that it replaces; False if neither is possible."""
        if target.takes(row):
            target.add(row)
            return True
        for _ in range(min(_DONORS, len(self._batches))):
            # In turn, so that exchanges spread over all batches.
            self._turn = (self._turn + 1) % len(self._batches)
            rows = self._batches[self._turn]
            if self._turn not in self._opened:
                self._opened[self._turn] = _Batch(rows, self._buckets, self._texts)
            donor = self._opened[self._turn]
            if not donor.takes(row):
                continue
            for place, partner in enumerate(rows[:_PARTNERS]):
                if target.takes(partner):
                    target.add(partner)
                    donor.exchange(place, row)
                    return True
        return False
