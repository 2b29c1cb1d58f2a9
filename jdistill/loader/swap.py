"""Rows that found no place change places with rows that have one.

Towards the end of an epoch the rows that still wait are those whose texts are frequent, so they fit beside each other
badly and would need several short batches. Nearly every row of the batches before could stand in their stead.
"""

from jdistill.loader.buckets import Buckets
from jdistill.loader.waiting import Texts

_DONORS = 64
_PARTNERS = 64
"""How many batches, and how many rows of each, are tried for a row: enough unless texts are in most batches."""


def merge(short: list[list[int]], full: list[list[int]], buckets: Buckets, texts: Texts, *, batch_rows: int) -> None:
    """Empty the later short batches into the earlier ones as far as possible, in place.

    Args:
      short: batches that are not full, in which rows move.
      full: batches that are full and stay so; rows of theirs are exchanged.
      buckets: a row only moves into a batch that is padded to its length anyway.
      texts: texts that may not meet in a batch.
      batch_rows: rows of a full batch.
    """
    donors = _Donors(full, buckets, texts)
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
    """A batch whose rows change: what it holds, and how long its rows may be."""

    def __init__(self, rows: list[int], buckets: Buckets, texts: Texts):
        self._rows = rows
        self._lengths = buckets.shapes[buckets.of_row[rows]].max(axis=0)
        self._buckets = buckets
        self._texts = texts
        self._seen = {text for row in rows for text in texts.get(row, ())}

    def takes(self, row: int) -> bool:
        """Whether the row would neither meet a text of its own here nor make the batch longer."""
        shorter = self._buckets.shapes[self._buckets.of_row[row]] <= self._lengths
        return self._seen.isdisjoint(self._texts.get(row, ())) and bool(shorter.all())

    def add(self, row: int) -> None:
        """One more row."""
        self._rows.append(row)
        self._seen.update(self._texts.get(row, ()))

    def exchange(self, place: int, row: int) -> None:
        """Put the row where another one is."""
        self._seen.difference_update(self._texts.get(self._rows[place], ()))
        self._seen.update(self._texts.get(row, ()))
        self._rows[place] = row


class _Donors:
    """Full batches that give one row and take another."""

    def __init__(self, batches: list[list[int]], buckets: Buckets, texts: Texts):
        self._batches = batches
        self._buckets = buckets
        self._texts = texts
        self._opened: dict[int, _Batch] = {}
        self._turn = 0

    def place(self, row: int, target: _Batch) -> bool:
        """Add to the target the row, or one whose place it takes; false where neither is found."""
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
