"""The plan of an epoch: which rows form which batch, and to which lengths each batch is padded.

A row belongs to the bucket of its padded lengths. Full batches come from one bucket each; what is left over in the
buckets is combined, short rows first, into mixed batches of the larger shape. All of it is arithmetic on lengths and
text numbers, so that a plan costs no data access, and depends on nothing but its arguments.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader.waiting import Texts, Waiting


class Shape(NamedTuple):
    """Padded lengths of a batch, in tokens."""

    query: int
    """0 where the rows are plain texts."""
    document: int


class Buckets(NamedTuple):
    """The bucket of each row, and what a bucket is padded to."""

    of_row: Int[np.ndarray, " n"]
    shapes: Int[np.ndarray, "buckets 2"]
    """Query and document length, in ascending order of (document, query)."""


class Plan(NamedTuple):
    """The batches of one epoch, in order."""

    rows: Int[np.ndarray, "steps rows"]
    shapes: Int[np.ndarray, "steps 2"]
    """Query and document length of each batch."""


def make_buckets(
    queries: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, " n"],
    *,
    query_lengths: tuple[int, ...],
    document_lengths: tuple[int, ...],
) -> Buckets:
    """Sort rows by the padded lengths of their query and of their longest document.

    Args:
      queries: tokens of each row's query, `[n]`.
      documents: tokens of each row's longest document, `[n]`.
      query_lengths: ascending padded lengths of queries.
      document_lengths: ascending padded lengths of documents.
    """
    query = np.searchsorted(query_lengths, queries)
    document = np.searchsorted(document_lengths, documents)
    of_row = document * len(query_lengths) + query
    shapes = [(q, d) for d in document_lengths for q in query_lengths]
    return Buckets(of_row.astype(np.int32), np.array(shapes, np.int32))


def plan_epoch(
    buckets: Buckets, texts: Texts, order: Int[np.ndarray, " n"], *, batch_rows: int, keep_last: bool
) -> Plan:
    """Assign rows to batches in the given random order.

    Args:
      buckets: the bucket of each row.
      texts: texts of rows that may not meet in a batch; empty where duplicates are allowed.
      order: a permutation of all rows.
      batch_rows: rows per batch, at most the number of rows.
      keep_last: complete short batches with rows of other batches; otherwise leave their rows out.

    Raises:
      UserError: if equal texts make batches without duplicates impossible, or nearly all repeats.
    """
    batches: list[Int[np.ndarray, " rows"]] = []
    shapes: list[Int[np.ndarray, 2]] = []
    left: list[Int[np.ndarray, " rows"]] = []
    grouped = order[np.argsort(buckets.of_row[order], kind="stable")]
    starts = np.searchsorted(buckets.of_row[grouped], np.arange(len(buckets.shapes) + 1))
    for bucket, shape in enumerate(buckets.shapes):
        waiting = Waiting(grouped[starts[bucket] : starts[bucket + 1]], texts)
        while len(waiting) >= batch_rows and len(batch := waiting.take(batch_rows)) == batch_rows:
            batches.append(batch)
            shapes.append(shape)
        left.append(waiting.rest())
    _mix(batches, shapes, np.concatenate(left), buckets, texts, order, batch_rows=batch_rows, keep_last=keep_last)
    if not batches:
        raise UserError(
            f"train.global_batch_size={batch_rows}: no batch can be filled from {len(order)} rows without a text "
            "standing in two rows. Lower train.global_batch_size, or set loader.no_duplicates to false."
        )
    return Plan(np.stack(batches).astype(np.int32), np.stack(shapes))


def _mix(
    batches: list[Int[np.ndarray, " rows"]],
    shapes: list[Int[np.ndarray, "2"]],
    left: Int[np.ndarray, " left"],
    buckets: Buckets,
    texts: Texts,
    order: Int[np.ndarray, " n"],
    *,
    batch_rows: int,
    keep_last: bool,
) -> None:
    """Append batches of the rows that their buckets left over."""
    limit = 2 * -(-len(order) // batch_rows)
    waiting = Waiting(left, texts)
    start = 0
    while len(waiting):
        batch = waiting.take(batch_rows)
        if len(batch) < batch_rows and not keep_last:
            return
        shape = buckets.shapes[buckets.of_row[batch]].max(axis=0)
        if len(batch) < batch_rows:
            fits = (buckets.shapes <= shape).all(axis=1)[buckets.of_row[order]]
            batch, start = _complete(batch, order[fits], texts, batch_rows=batch_rows, start=start)
        batches.append(batch)
        shapes.append(shape)
        if len(batches) > limit:
            raise UserError(
                f"loader.no_duplicates: {len(order)} rows need more than {limit} batches of {batch_rows} rows, most of "
                "them repeats, because some texts stand in very many rows. Remove those rows from the data, lower "
                "train.global_batch_size, or set loader.last_batch to drop or loader.no_duplicates to false."
            )


def _complete(
    batch: Int[np.ndarray, " short"],
    candidates: Int[np.ndarray, " m"],
    texts: Texts,
    *,
    batch_rows: int,
    start: int,
) -> tuple[Int[np.ndarray, " rows"], int]:
    """Fill up a batch with candidates from `start` on, around the end, and say where to start next time."""
    inside = set(batch.tolist())
    seen = {text for row in inside for text in texts.get(row, ())}
    rows = batch.tolist()
    for i in range(len(candidates)):
        row = int(candidates[(start + i) % len(candidates)])
        if row not in inside and seen.isdisjoint(texts.get(row, ())):
            rows.append(row)
            seen.update(texts.get(row, ()))
        if len(rows) == batch_rows:
            return np.array(rows, np.int32), start + i + 1
    raise UserError(
        f"train.global_batch_size={batch_rows}: the last batch of an epoch cannot be filled without a text standing in "
        "two rows. Lower train.global_batch_size, or set loader.last_batch to drop or loader.no_duplicates to false."
    )
