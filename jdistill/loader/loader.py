"""The loader: `batch(step)` is a pure function of (seed, step, store), so that a run resumes from its step alone."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader.config import LoaderConfig
from jdistill.loader.duplicates import shared_texts
from jdistill.loader.epochs import Epochs
from jdistill.loader.layouts import make_layout
from jdistill.loader.shapes import Lengths, Shape
from jdistill.store import HiddenTable, Rows, TeacherVectors, TokenTable
from jdistill.store.vectors import SideName
from jdistill.types import Batch, PairEmbeddings, Tokens


class Loader:
    """Batches of a store's rows.

    Args:
      config: composition and padding.
      rows: the texts of each row.
      queries: tokens of the texts as queries; None if rows are plain texts.
      documents: tokens of the texts as documents.
      teachers: name -> the teacher's vectors.
      global_batch_size: rows per step over all devices and hosts.
      seed: determines the order of the rows.
      pieces: number of parts of a batch, devices times microbatches, each of which is packed or folded separately. The
        rows of a batch and their order do not depend on it.
      prompts: side -> number of prompt tokens that pooling excludes, if any.
      hidden: side -> hidden states of the texts of that side, to be included in batches; for every side that the rows
        have, or none. Not with packing or folding.

    Raises:
      UserError: if there are fewer rows than `global_batch_size`, if duplicate texts make `no_duplicates` impossible,
        or if a packed or folded batch does not divide into `pieces`.
    """

    def __init__(
        self,
        config: LoaderConfig,
        *,
        rows: Rows,
        queries: TokenTable | None,
        documents: TokenTable,
        teachers: Mapping[str, TeacherVectors],
        global_batch_size: int,
        seed: int,
        pieces: int = 1,
        prompts: Mapping[SideName, int] | None = None,
        hidden: Mapping[SideName, HiddenTable] | None = None,
    ):
        if (queries is None) != (rows.queries is None):
            raise ValueError("a token table of queries must be given if, and only if, the rows have queries")
        if hidden and (config.packing is not None or config.folding):
            raise ValueError("hidden states cannot be combined with packing or folding")
        require_rows(len(rows.documents), global_batch_size)
        self.config = config
        self.global_batch_size = global_batch_size
        self._rows = rows
        self._queries = queries
        self._documents = documents
        self._teachers = dict(teachers)
        self._prompts: dict[SideName, int] = {side: tokens for side, tokens in (prompts or {}).items() if tokens}
        self._hidden = dict(hidden or {})
        lengths = Lengths(_query_lengths(rows, queries), documents.lengths[rows.documents])
        # Without any, no text keeps a row out of a batch.
        texts = shared_texts(_all_texts(rows)) if config.no_duplicates else {}
        self._tokens = lengths.queries + lengths.documents.sum(axis=1)
        self._layout = make_layout(config, lengths, texts, batch_rows=global_batch_size, pieces=pieces)
        keep = config.last_batch == "keep"
        self._epochs = Epochs(self._layout.plan, len(rows.documents), keep_last=keep, seed=seed)
        shapes = self._layout.begin(self._epochs.first)
        self._places = sum(self._layout.places(shape) for shape in shapes)
        self.shapes = tuple(sorted(set(shapes)))
        """All shapes of batches, in tokens or packed rows, ascending; XLA compiles one program for each. With packing,
        a batch of a later epoch may need one more row, and another program."""
        self.fingerprint = _fingerprint(config, rows, lengths, global_batch_size, seed, self._prompts, self._hidden)
        """Equal for two loaders if, and only if, they yield the same batches, apart from teacher vectors."""

    @property
    def row_count(self) -> int:
        """Number of rows of the store."""
        return len(self._rows.documents)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch: exact, and the same for every epoch."""
        return len(self._epochs.first.rows)

    @property
    def pieces(self) -> int | None:
        """Number of parts of a batch that are laid out separately; None if any number works."""
        return self._layout.pieces

    @property
    def layout(self) -> str:
        """Description of the layout for logs."""
        return self._layout.describe(self.shapes)

    @property
    def padding(self) -> float:
        """Fraction of padding among the tokens the encoder computes on in the first epoch, in [0, 1)."""
        return 1.0 - int(self._tokens[self._epochs.first.rows].sum()) / self._places

    def batch_padding(self, step: int) -> float:
        """Fraction of padding among the tokens of this step's batch, in [0, 1)."""
        rows, shape = self._planned(step)
        return 1.0 - int(self._tokens[rows].sum()) / self._layout.places(shape)

    def batch(self, step: int, host: tuple[int, int] = (0, 1)) -> Batch:
        """The batch of a step, as NumPy arrays.

        Args:
          step: number of updates done before, >= 0.
          host: `(index, count)`; returns this host's contiguous share of the rows of the global batch.
        """
        all_rows, shape = self._planned(step)
        rows = all_rows[_share(self.global_batch_size, host, self.pieces)]
        # Any: NumPy arrays here; the shared types describe them as JAX arrays.
        document_ids: Any = np.asarray(self._rows.documents[rows])
        documents = self._tokens_of(self._documents, document_ids, shape, "document")
        query_ids: Any = None
        queries: Any = None
        if self._rows.queries is not None and self._queries is not None:
            query_ids = np.asarray(self._rows.queries[rows])
            queries = self._tokens_of(self._queries, query_ids[:, None], shape, "query")
            # All arrays but `packed` have an axis for the texts of a row; drop it, since a row has one query.
            alone = {name: x[:, 0] for name, x in queries._asdict().items() if x is not None and name != "packed"}
            queries = queries._replace(**alone)
        scores: Any = None if self._rows.scores is None else np.asarray(self._rows.scores[rows])
        labels: Any = None if self._rows.labels is None else np.asarray(self._rows.labels[rows])
        return Batch(
            queries=queries,
            documents=documents,
            targets={name: _targets(teacher, query_ids, document_ids) for name, teacher in self._teachers.items()},
            scores=scores,
            query_ids=query_ids,
            document_ids=document_ids,
            labels=labels,
        )

    def examples(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The first batch of each shape in steps `start` to `stop - 1`: programs to compile, in order of use.

        Looks at most one epoch ahead, in which nearly every shape occurs.
        """
        seen: set[Shape] = set()
        for step in range(start, min(stop, start + self.steps_per_epoch)):
            if len(seen) == len(self.shapes):
                return
            _, shape = self._planned(step)
            if shape not in seen:
                seen.add(shape)
                yield self.batch(step, host)

    def stream(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The batches of steps `start` to `stop - 1`, in order, with `config.prefetch` of them prepared ahead."""
        if start >= stop:
            return
        ahead = self.config.prefetch
        options = grain.ReadOptions(num_threads=min(ahead, 2), prefetch_buffer_size=ahead)
        # Random access: the slice starts at `start` without making earlier batches.
        batches = iter(grain.MapDataset.source(_Steps(self, stop, host))[start:stop].to_iter_dataset(options))
        try:
            yield from batches
        finally:
            batches.close()  # pyright: ignore[reportAttributeAccessIssue]  # ends its threads

    def _tokens_of(self, table: TokenTable, ids: Int[np.ndarray, "b c"], shape: Shape, side: SideName) -> Tokens:
        tokens, hidden = self._layout.tokens(table, ids, shape, side), self._hidden.get(side)
        known: Any = None if hidden is None else hidden.pad(ids, tokens.ids.shape[-1])
        prompt: Any = np.full(ids.shape, self._prompts[side], np.int32) if side in self._prompts else None
        return tokens._replace(hidden=known, prompt=prompt)

    def _planned(self, step: int) -> tuple[Int[np.ndarray, " n"], Shape]:
        epoch, i = divmod(step, self.steps_per_epoch)
        plan = self._epochs.plan(epoch)
        return plan.rows[i], self._layout.shape(plan.rows[i], Shape(*plan.shapes[i].tolist()))


class _Steps:
    """Random-access source for grain: element `i` is the batch of step `i`."""

    def __init__(self, loader: Loader, stop: int, host: tuple[int, int]):
        self._loader = loader
        self._stop = stop
        self._host = host

    def __len__(self) -> int:
        return self._stop

    def __getitem__(self, index: int) -> Batch:
        return self._loader.batch(int(index), self._host)


def _targets(teacher: TeacherVectors, query_ids: Any, document_ids: Any) -> PairEmbeddings:
    queries: Any = None if query_ids is None else teacher.take(query_ids, "query")
    documents: Any = teacher.take(document_ids, "document")
    return PairEmbeddings(queries, documents)


def require_rows(rows: int, global_batch_size: int) -> None:
    """Raise if a batch is larger than the data.

    Raises:
      UserError: with both numbers.
    """
    if rows == 0:
        raise UserError("store: there are no rows to train on. Give at least one data source the role 'train'.")
    if rows < global_batch_size:
        raise UserError(
            f"train.global_batch_size={global_batch_size}: the store has only {rows} rows to train on. "
            f"Use at most {rows}, or add data."
        )


def _share(rows: int, host: tuple[int, int], pieces: int | None) -> slice:
    index, count = host
    if rows % count or not 0 <= index < count:
        raise ValueError(f"host {index} of {count}: {rows} rows cannot be shared evenly")
    # A host makes whole pieces, since each is laid out by itself.
    if pieces is not None and pieces % count:
        raise ValueError(f"host {index} of {count}: {pieces} pieces cannot be shared evenly")
    return slice(index * rows // count, (index + 1) * rows // count)


def _query_lengths(rows: Rows, queries: TokenTable | None) -> Int[np.ndarray, " n"]:
    if rows.queries is None or queries is None:
        return np.zeros(len(rows.documents), np.int64)
    return queries.lengths[rows.queries].astype(np.int64)


def _all_texts(rows: Rows) -> Int[np.ndarray, "n t"]:
    return rows.documents if rows.queries is None else np.column_stack([rows.queries, rows.documents])


def _fingerprint(
    config: LoaderConfig,
    rows: Rows,
    lengths: Lengths,
    global_batch_size: int,
    seed: int,
    prompts: Mapping[SideName, int],
    hidden: Mapping[SideName, HiddenTable],
) -> str:
    # `prefetch` does not change batches.
    settings = config.model_dump(mode="json", exclude={"prefetch"})
    digest = hashlib.sha256(json.dumps([settings, global_batch_size, seed], sort_keys=True).encode())
    labels = () if rows.labels is None else (rows.labels,)
    for array in (rows.queries, rows.documents, rows.scores, *lengths, *labels):
        # The shape as well: the bytes of [2, 3] and [3, 2] may be equal.
        digest.update(b"none" if array is None else str((array.shape, array.dtype.str)).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    for side, tokens in sorted(prompts.items()):
        digest.update(f"{side} {tokens}".encode())
    for side, table in sorted(hidden.items()):
        digest.update(f"{side} {table.fingerprint}".encode())
    return digest.hexdigest()
