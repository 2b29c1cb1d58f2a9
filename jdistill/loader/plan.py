"""The plan of an epoch: the rows of each batch, and the lengths it is padded to.

A row belongs to the bucket of its padded lengths. Full batches are formed within buckets; leftover rows are combined,
short ones first, into mixed batches of a shape large enough for all. Plans are computed from lengths and text ids only,
without access to the data, and depend on nothing but the arguments.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader.duplicates import DeferredRows, SharedTexts, merge
from jdistill.loader.shapes import Buckets, holding


class EpochPlan(NamedTuple):
    """The batches of one epoch, in order."""

    rows: Int[np.ndarray, "steps rows"]
    shapes: Int[np.ndarray, "steps 2"]
    """Query and document length of each batch."""


def plan_epoch(
    buckets: Buckets, texts: SharedTexts, order: Int[np.ndarray, " n"], *, batch_rows: int, keep_last: bool
) -> EpochPlan:
    """Assign rows to batches in the given random order.

    Args:
      buckets: the bucket of each row.
      texts: texts that must not occur in two rows of a batch; empty if duplicates are allowed.
      order: a permutation of all rows.
      batch_rows: rows per batch, at most the number of rows.
      keep_last: complete short batches with rows of other batches; otherwise skip their rows.

    Raises:
      UserError: if duplicate texts make batches without duplicates impossible, or mostly repeats.
    """
    batches, left = _full_batches(buckets, texts, order, batch_rows)
    mixed, short = _mixed_batches(left, texts, batch_rows)
    if len(short) > 1:
        merge(short, [*batches, *mixed], buckets, texts, batch_rows=batch_rows)
        mixed += [batch for batch in short if len(batch) == batch_rows]
        short = [batch for batch in short if 0 < len(batch) < batch_rows]
    if keep_last:
        _check_not_mostly_repeats(len(batches) + len(mixed) + len(short), len(order), batch_rows)
        mixed += _completed(short, buckets, texts, order, batch_rows)
    batches += mixed
    if not batches:
        raise UserError(
            "train.global_batch_size: no batch can be filled without a text occurring in two of its rows. Lower it, or "
            "set loader.no_duplicates to false."
        )
    rows = np.stack([np.asarray(batch, np.int32) for batch in batches])
    # Shapes are ordered by cost: the first that holds the longest row is the cheapest.
    longest = buckets.shapes[buckets.of_row[rows]].max(axis=1)
    return EpochPlan(rows, buckets.shapes[holding(buckets.shapes, longest).argmax(axis=1)])


def _full_batches(
    buckets: Buckets, texts: SharedTexts, order: Int[np.ndarray, " n"], batch_rows: int
) -> tuple[list[list[int]], Int[np.ndarray, " left"]]:
    """Full batches of one bucket each, and the leftover rows, short ones first."""
    batches: list[list[int]] = []
    left: list[Int[np.ndarray, " rows"]] = []
    # By bucket, in random order within each.
    grouped = order[np.argsort(buckets.of_row[order], kind="stable")]
    starts = np.searchsorted(buckets.of_row[grouped], np.arange(len(buckets.shapes) + 1))
    for start, end in pairwise(starts):
        waiting = DeferredRows(grouped[start:end], texts)
        batch: list[int] = []
        while len(waiting) >= batch_rows and len(batch := waiting.take(batch_rows)) == batch_rows:
            batches.append(batch)
            batch = []
        # `batch` is what duplicates kept from becoming full.
        left += [np.array(batch, np.int32), waiting.rest()]
    return batches, np.concatenate(left)


def _mixed_batches(
    left: Int[np.ndarray, " left"], texts: SharedTexts, batch_rows: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Batches across buckets: full ones, and short ones."""
    waiting = DeferredRows(left, texts)
    batches: list[list[int]] = []
    while len(waiting):
        batches.append(waiting.take(batch_rows))
    return [b for b in batches if len(b) == batch_rows], [b for b in batches if len(b) < batch_rows]


def _completed(
    short: list[list[int]], buckets: Buckets, texts: SharedTexts, order: Int[np.ndarray, " n"], batch_rows: int
) -> list[list[int]]:
    """Complete short batches with rows that are no longer than theirs, with different rows for each batch."""
    completed, start = [], 0
    for batch in short:
        shape = buckets.shapes[buckets.of_row[batch]].max(axis=0)
        fits = (buckets.shapes <= shape[None, :]).all(axis=1)[buckets.of_row[order]]
        # Rows that fit the shape first; longer rows, which enlarge the batch, only if those do not suffice.
        candidates = np.concatenate([np.roll(order[fits], -start), order[~fits]]).tolist()
        inside, seen = set(batch), {text for row in batch for text in texts.get(row, ())}
        rows = list(batch)
        for tried, row in enumerate(candidates):
            if row not in inside and seen.isdisjoint(texts.get(row, ())):
                rows.append(row)
                seen.update(texts.get(row, ()))
            if len(rows) == batch_rows:
                start += tried + 1
                break
        else:
            raise UserError(
                "train.global_batch_size: the last batch of an epoch cannot be filled without a text occurring in "
                "two of its rows. Lower it, or set loader.last_batch to drop or loader.no_duplicates to false."
            )
        completed.append(rows)
    return completed


def _check_not_mostly_repeats(batches: int, rows: int, batch_rows: int) -> None:
    enough = -(-rows // batch_rows)
    if batches > 2 * enough:
        raise UserError(
            f"loader.no_duplicates: {batches} batches are needed where {enough} would suffice for all rows. Most are "
            "repeats, because some texts occur in very many rows. Remove those rows from the data, lower "
            "train.global_batch_size, or set loader.last_batch to drop or loader.no_duplicates to false."
        )
