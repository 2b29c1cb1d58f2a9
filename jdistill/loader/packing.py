"""Packing: batches of nearly equal token counts, whose texts fill rows of one fixed length.

Every batch gets texts of every length, so that all need nearly the same number of rows: one compiled program, and
hardly any place without a token. Padding each text instead needs a program per length.
"""

from bisect import bisect_left, insort

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader.plan import Plan


def plan_packed(
    queries: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, "n c"],
    order: Int[np.ndarray, " n"],
    *,
    batch_rows: int,
    capacity: int,
    keep_last: bool,
) -> Plan:
    """Deal the rows, sorted by tokens, to the batches in turn, and count the packed rows that the fullest needs.

    Args:
      queries: tokens of each row's query; zeros where rows are plain texts.
      documents: tokens of each row's documents.
      order: a permutation of all rows.
      batch_rows: rows per batch.
      capacity: places of a packed row.
      keep_last: complete the last batch with the first rows of the order; otherwise leave the last ones out.

    Returns:
      The plan; its shapes are numbers of packed rows, of queries and of documents, the same for every batch.
    """
    count = len(order)
    steps = -(-count // batch_rows) if keep_last else count // batch_rows
    chosen = np.resize(order, steps * batch_rows)
    tokens = queries + documents.sum(axis=1)
    dealt = chosen[np.argsort(tokens[chosen], kind="stable")].reshape(batch_rows, steps)
    # Which batch gets which row of a stratum is as random as the order.
    turn = np.argsort(np.argsort(chosen, kind="stable").reshape(batch_rows, steps), axis=1)
    rows = np.take_along_axis(dealt, turn, axis=1).T.astype(np.int32)
    shapes = [
        (packed_rows(queries[batch], capacity), packed_rows(documents[batch].ravel(), capacity)) for batch in rows
    ]
    return Plan(rows, np.broadcast_to(np.max(np.array(shapes, np.int32), axis=0), (steps, 2)).copy())


def packed_rows(lengths: Int[np.ndarray, " k"], capacity: int) -> int:
    """How many rows `assign` needs; 0 where there are no tokens."""
    return int(assign(lengths, capacity)[0].max(initial=-1)) + 1 if lengths.any() else 0


def assign(lengths: Int[np.ndarray, " k"], capacity: int) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Row and first place of each text: longest first, each into the fullest row that has room (best fit).

    Raises:
      UserError: if a text is longer than a row.
    """
    if lengths.max(initial=0) > capacity:
        raise UserError(
            f"loader.packing={capacity}: a text has {lengths.max()} tokens, which no row can hold. Raise it to "
            f"at least {lengths.max()}, or lower student.max_length."
        )
    row, first = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    room: list[tuple[int, int]] = []  # (places left, row), ascending
    for text in np.argsort(-lengths, kind="stable"):
        length = int(lengths[text])
        i = bisect_left(room, (length, -1))
        left, at = room.pop(i) if i < len(room) else (capacity, len(room))
        row[text], first[text] = at, capacity - left
        insort(room, (left - length, at))
    return row, first


def places(
    lengths: Int[np.ndarray, " k"], *, padded: int, rows: int, capacity: int
) -> Int[np.ndarray, "rows capacity"]:
    """For each place of the packed rows, which of the `k * padded` padded places it holds; -1 where empty, int32."""
    packed = np.full((rows, capacity), -1, np.int32)
    for text, (row, first) in enumerate(zip(*assign(lengths, capacity), strict=True)):
        length = int(lengths[text])
        packed[row, first : first + length] = text * padded + np.arange(length, dtype=np.int32)
    return packed
