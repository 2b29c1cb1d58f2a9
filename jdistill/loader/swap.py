"""Exchange rows that do not fit into the last batches with rows of earlier batches.

Towards the end of an epoch the waiting rows are those with frequent texts, which conflict with each other and would
need several short batches. Almost any row of an earlier batch can be exchanged with one of them.
"""

from jdistill.loader.buckets import Buckets
from jdistill.loader.waiting import Texts

_DONORS = 64
_PARTNERS = 64
"""Number of batches, and of rows in each, tried for a row; enough unless a text is in most batches."""


def merge(short: list[list[int]], full: list[list[int]], buckets: Buckets, texts: Texts, *, batch_rows: int) -> None:
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
    for last in range(len(short) - 1, 0, -1):
        waiting, short[last] = short[last], []
        for row in waiting:
            if len(short[first]) == batch_rows and first < last:
                first += 1
                target = _Batch(short[first], buckets, texts)
            if first == last or not donors.place(row, target):
                short[last].append(row)


class _Batch:
    """A batch whose rows change: its texts, and its maximum lengths."""

    def __init__(self, rows: list[int], buckets: Buckets, texts: Texts):
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
        """Append the row."""
        self._rows.append(row)
        self._seen.update(self._texts.get(row, ()))

    def exchange(self, place: int, row: int) -> None:
        """Replace the row at index `place`."""
        self._seen.difference_update(self._texts.get(self._rows[place], ()))
        self._seen.update(self._texts.get(row, ()))
        self._rows[place] = row


class SwapPool:
    """Full batches that can exchange a row for another."""

    def __init__(self, batches: list[list[int]], buckets: Buckets, texts: Texts):
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
