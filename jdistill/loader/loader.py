"""The loader: `batch(step)` is a pure function of (seed, step, store), so that a run resumes from its step alone."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, Protocol, cast

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from jdistill.config import UserError
from jdistill.loader.buckets import Buckets, Shape, make_buckets
from jdistill.loader.config import LoaderConfig
from jdistill.loader.epochs import Epochs, Planner
from jdistill.loader.lengths import round_up, static_lengths
from jdistill.loader.packing import places, plan_packed
from jdistill.loader.plan import Plan, plan_epoch
from jdistill.loader.waiting import shared_texts
from jdistill.types import Batch, Columns, Tokens


class Rows(Protocol):
    """What the loader needs of a store's rows; texts are numbers into the store."""

    @property
    def queries(self) -> Int[np.ndarray, " n"] | None:
        """The query of each row, None where rows are plain texts."""
        ...

    @property
    def documents(self) -> Int[np.ndarray, "n c"]:
        """Of each row its document, then its hard negatives."""
        ...

    @property
    def scores(self) -> Float[np.ndarray, "n s"] | None:
        """The scores of each row, None where there are none."""
        ...


class TokenTable(Protocol):
    """What the loader needs of a token cache."""

    @property
    def lengths(self) -> Int[np.ndarray, " texts"]:
        """Tokens of each text."""
        ...

    def pad(
        self, ids: Int[np.ndarray, "..."], length: int
    ) -> tuple[Int[np.ndarray, "... l"], Bool[np.ndarray, "... l"]]:
        """Tokens of these texts and which of them are real, padded to `length`."""
        ...


class TeacherVectors(Protocol):
    """What the loader needs of a teacher."""

    def take(self, ids: Int[np.ndarray, "..."], side: Literal["query", "document"]) -> Float[np.ndarray, "... d"]:
        """The vectors of these texts, float32."""
        ...


class Loader:
    """Batches of a store's rows.

    Args:
      config: composition and padding.
      rows: which texts form a row.
      queries: tokens of the texts as queries; None where rows are plain texts.
      documents: tokens of the texts as documents.
      teachers: name -> the teacher's vectors.
      global_batch_size: rows per step over all devices and hosts.
      seed: decides the order of the rows.

    Raises:
      UserError: if there are fewer rows than `global_batch_size`, or if equal texts rule out `no_duplicates`.
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
    ):
        if (queries is None) != (rows.queries is None):
            raise ValueError("the queries' token table must be given exactly where the rows have queries")
        _check_rows(len(rows.documents), global_batch_size)
        self.config = config
        self.global_batch_size = global_batch_size
        self._rows = rows
        self._queries = queries
        self._documents = documents
        self._teachers = dict(teachers)
        query_lengths = _query_lengths(rows, queries)
        document_lengths = documents.lengths[rows.documents]
        self._tokens = query_lengths + document_lengths.sum(axis=1, dtype=np.int64)
        self._longest = Shape(
            int(round_up(query_lengths.max(keepdims=True), config.pad_to_multiple.query)[0]),
            int(round_up(document_lengths.max(keepdims=True), config.pad_to_multiple.document).max()),
        )
        planner = _planner(config, rows, query_lengths, document_lengths, global_batch_size)
        self._epochs = Epochs(planner, len(rows.documents), keep_last=config.last_batch == "keep", seed=seed)
        self.fingerprint = _fingerprint(config, rows, query_lengths, document_lengths, global_batch_size, seed)
        """Equal for two loaders exactly if they yield the same batches (teacher vectors aside)."""

    @property
    def row_count(self) -> int:
        """Rows of the store that this loader draws from."""
        return len(self._rows.documents)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch: exact, and the same for every epoch."""
        return len(self._epochs.first.rows)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every pair of padded lengths that occurs, or of numbers of packed rows, ascending: one program each."""
        return self._epochs.shapes

    @property
    def layout(self) -> str:
        """How texts lie in a batch, for people."""
        shapes = " ".join(f"{q}x{d}" if q else f"{d}" for q, d in self.shapes)
        return f"lengths {shapes}" if self.config.packing is None else f"{shapes} rows of {self.config.packing} tokens"

    @property
    def padding(self) -> float:
        """Share of padding among all tokens of the first epoch, in [0, 1)."""
        return self._padding(self._epochs.first)

    def batch_padding(self, step: int) -> float:
        """Share of padding among the tokens of this step's batch, in [0, 1)."""
        plan, i = self._planned(step)
        return self._padding(Plan(plan.rows[i : i + 1], plan.shapes[i : i + 1]))

    def batch(self, step: int, host: tuple[int, int] = (0, 1)) -> Batch:
        """The batch of a step, as NumPy arrays.

        Args:
          step: number of updates done before, >= 0.
          host: `(index, count)` yields this host's contiguous share of the rows of the same global batch.
        """
        plan, i = self._planned(step)
        rows = plan.rows[i][_share(self.global_batch_size, host)]
        shape = Shape(*(int(number) for number in plan.shapes[i]))
        # Any: NumPy arrays here; the shared types name what they are once they lie on the devices.
        document_ids: Any = np.asarray(self._rows.documents[rows])
        documents = self._tokens_of(self._documents, document_ids, shape.document, self._longest.document)
        query_ids: Any = None
        queries: Any = None
        if self._rows.queries is not None and self._queries is not None:
            query_ids = np.asarray(self._rows.queries[rows])
            queries = self._tokens_of(self._queries, query_ids, shape.query, self._longest.query)
        scores: Any = None if self._rows.scores is None else np.asarray(self._rows.scores[rows])
        return Batch(
            queries=queries,
            documents=documents,
            targets={name: _targets(teacher, query_ids, document_ids) for name, teacher in self._teachers.items()},
            scores=scores,
            query_ids=query_ids,
            document_ids=document_ids,
        )

    def examples(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The first batch of each shape among steps `start` to `stop - 1`: what must be compiled, in order of need."""
        seen: set[Shape] = set()
        for step in range(start, stop):
            if len(seen) == len(self.shapes):
                return
            plan, i = self._planned(step)
            shape = Shape(*(int(length) for length in plan.shapes[i]))
            if shape not in seen:
                seen.add(shape)
                yield self.batch(step, host)

    def stream(self, start: int, stop: int, host: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """The batches of steps `start` to `stop - 1`, in order, `config.prefetch` of them prepared ahead."""
        if start >= stop:
            return
        ahead = self.config.prefetch
        options = grain.ReadOptions(num_threads=min(ahead, 2), prefetch_buffer_size=ahead)
        batches = iter(grain.MapDataset.source(_Steps(self, stop, host))[start:stop].to_iter_dataset(options))
        try:
            yield from batches
        finally:
            batches.close()  # pyright: ignore[reportAttributeAccessIssue]  # ends its threads

    def _tokens_of(self, table: TokenTable, ids: Int[np.ndarray, "..."], size: int, longest: int) -> Any:
        """Padded to `size`; with packing padded to `longest`, and packed into `size` rows."""
        capacity = self.config.packing
        if capacity is None:
            return Tokens(*cast(Any, table.pad(ids, size)))
        packed = places(table.lengths[ids].ravel(), padded=longest, rows=size, capacity=capacity)
        return Tokens(*cast(Any, (*table.pad(ids, longest), packed)))

    def _planned(self, step: int) -> tuple[Plan, int]:
        epoch, i = divmod(step, self.steps_per_epoch)
        return self._epochs.plan(epoch), i

    def _padding(self, plan: Plan) -> float:
        real = int(self._tokens[plan.rows].sum())
        if self.config.packing is None:
            columns = self._rows.documents.shape[1]
            padded = int((plan.shapes[:, 0] + plan.shapes[:, 1] * columns).sum()) * plan.rows.shape[1]
        else:
            padded = int(plan.shapes.sum()) * self.config.packing
        return 1.0 - real / padded


class _Steps:
    """Element `i` is the batch of step `i`: what grain calls a random-access source."""

    def __init__(self, loader: Loader, stop: int, host: tuple[int, int]):
        self._loader = loader
        self._stop = stop
        self._host = host

    def __len__(self) -> int:
        return self._stop

    def __getitem__(self, index: int) -> Batch:
        return self._loader.batch(int(index), self._host)


def _targets(teacher: TeacherVectors, query_ids: Any, document_ids: Any) -> Columns:
    queries: Any = None if query_ids is None else teacher.take(query_ids, "query")
    documents: Any = teacher.take(document_ids, "document")
    return Columns(queries, documents)


def _check_rows(rows: int, global_batch_size: int) -> None:
    if rows == 0:
        raise UserError("store: there are no rows to train on. Give at least one data source the role 'train'.")
    if rows < global_batch_size:
        raise UserError(
            f"train.global_batch_size={global_batch_size}: the store holds only {rows} rows to train on. "
            f"Use at most {rows}, or add data."
        )


def _share(rows: int, host: tuple[int, int]) -> slice:
    index, count = host
    if rows % count or not 0 <= index < count:
        raise ValueError(f"host {index} of {count}: {rows} rows cannot be shared evenly")
    return slice(index * rows // count, (index + 1) * rows // count)


def _query_lengths(rows: Rows, queries: TokenTable | None) -> Int[np.ndarray, " n"]:
    if rows.queries is None or queries is None:
        return np.zeros(len(rows.documents), np.int64)
    return queries.lengths[rows.queries].astype(np.int64)


def _all_texts(rows: Rows) -> Int[np.ndarray, "n t"]:
    return rows.documents if rows.queries is None else np.column_stack([rows.queries, rows.documents])


def _planner(
    config: LoaderConfig,
    rows: Rows,
    queries: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, "n c"],
    batch_rows: int,
) -> Planner:
    """How an epoch is planned: rows of like length together, or packed."""
    keep = config.last_batch == "keep"
    if config.packing is not None:
        if config.no_duplicates:
            raise UserError(
                "loader.packing: does not go together with loader.no_duplicates yet. Leave out one of both; without "
                "packing, texts are padded to one of loader.shapes lengths."
            )
        return partial(plan_packed, queries, documents, batch_rows=batch_rows, capacity=config.packing, keep_last=keep)
    texts = shared_texts(_all_texts(rows)) if config.no_duplicates else {}
    return partial(plan_epoch, _buckets(config, rows, queries, documents), texts, batch_rows=batch_rows, keep_last=keep)


def _buckets(
    config: LoaderConfig, rows: Rows, queries: Int[np.ndarray, " n"], documents: Int[np.ndarray, "n c"]
) -> Buckets:
    multiple, shapes = config.pad_to_multiple, config.shapes
    longest = documents.max(axis=1)
    plain = rows.queries is None
    return make_buckets(
        queries,
        longest,
        query_lengths=(0,) if plain else static_lengths(queries, multiple=multiple.query, at_most=shapes.query),
        document_lengths=static_lengths(longest, multiple=multiple.document, at_most=shapes.document),
    )


def _fingerprint(
    config: LoaderConfig,
    rows: Rows,
    queries: Int[np.ndarray, " n"],
    documents: Int[np.ndarray, "n c"],
    global_batch_size: int,
    seed: int,
) -> str:
    settings = config.model_dump(mode="json", exclude={"prefetch"})
    digest = hashlib.sha256(json.dumps([settings, global_batch_size, seed], sort_keys=True).encode())
    for array in (rows.queries, rows.documents, rows.scores, queries, documents):
        digest.update(b"none" if array is None else str((array.shape, array.dtype.str)).encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
