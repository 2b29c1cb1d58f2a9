"""Layouts of a batch's texts in the encoder's rows: padded, folded (two per row) or packed.

A layout plans epochs, determines the shape of a batch, and makes its tokens. Token arrays are always padded; folded and
packed batches also have the position of each token in the encoder's rows. They are padded to the longest text of all,
which is free, since the encoder does not compute on that padding.
"""

from functools import partial
from typing import Any, Protocol, cast

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.loader import folding, packing
from jdistill.loader.config import LoaderConfig
from jdistill.loader.duplicates import SharedTexts
from jdistill.loader.epochs import Planner
from jdistill.loader.plan import EpochPlan, plan_epoch
from jdistill.loader.shapes import Lengths, Shape, make_buckets, round_up, static_shapes
from jdistill.store import TokenTable
from jdistill.store.vectors import SideName
from jdistill.types import Tokens

_WORTH = 0.02
"""Fraction of all slots that a second number of packed rows must save to be worth a second program."""


class Layout(Protocol):
    """What the loader asks of a layout."""

    @property
    def plan(self) -> Planner:
        """Random order of all rows -> the epoch's batches."""
        ...

    @property
    def pieces(self) -> int | None:
        """Number of parts of a batch that are laid out separately; None if any number works."""
        ...

    def begin(self, first: EpochPlan) -> list[Shape]:
        """The shapes of the first epoch's batches; must be called before `shape`."""
        ...

    def shape(self, rows: Int[np.ndarray, " n"], planned: Shape) -> Shape:
        """The shape of a batch of these rows."""
        ...

    def places(self, shape: Shape) -> int:
        """Number of tokens the encoder computes on for a batch of this shape, including padding."""
        ...

    def tokens(self, table: TokenTable, ids: Int[np.ndarray, "b c"], shape: Shape, side: SideName) -> Tokens:
        """Tokens of one or more whole pieces of a batch of this shape, as NumPy arrays `[b, c, l]`."""
        ...

    def describe(self, shapes: tuple[Shape, ...]) -> str:
        """Description for logs."""
        ...


def make_layout(config: LoaderConfig, lengths: Lengths, texts: SharedTexts, *, batch_rows: int, pieces: int) -> Layout:
    """The layout selected by the config.

    Raises:
      UserError: if a batch does not divide into `pieces`, or a text is too long.
    """
    if config.packing is not None:
        _check_pieces(batch_rows, pieces, 1)
        return Packed(config, lengths, texts, config.packing, batch_rows=batch_rows, pieces=pieces)
    if config.folding:
        _check_pieces(batch_rows, pieces, 2)
        return Folded(config, lengths, texts, batch_rows=batch_rows, pieces=pieces)
    return Padded(config, lengths, texts, batch_rows=batch_rows)


class Padded:
    """One text per row, in buckets of similar length."""

    pieces = None

    def __init__(self, config: LoaderConfig, lengths: Lengths, texts: SharedTexts, *, batch_rows: int):
        # All documents of a row are padded to one length.
        longest = lengths.documents.max(axis=1)
        shapes = _shapes(config, lengths.queries, longest, lengths.documents.shape[1])
        buckets = make_buckets(lengths.queries, longest, shapes)
        keep = config.last_batch == "keep"
        self.plan = partial(plan_epoch, buckets, texts, batch_rows=batch_rows, keep_last=keep)
        self._batch_rows = batch_rows
        self._columns = lengths.documents.shape[1]

    def begin(self, first: EpochPlan) -> list[Shape]:
        """The planned shapes."""
        return _planned(first)

    def shape(self, rows: Int[np.ndarray, " n"], planned: Shape) -> Shape:
        """The planned shape."""
        return planned

    def places(self, shape: Shape) -> int:
        """Number of tokens the encoder computes on, including padding."""
        return self._batch_rows * (shape.query + self._columns * shape.document)

    def tokens(self, table: TokenTable, ids: Int[np.ndarray, "b c"], shape: Shape, side: SideName) -> Tokens:
        """Tokens padded to the shape."""
        return Tokens(*cast(Any, table.pad(ids, getattr(shape, side))))

    def describe(self, shapes: tuple[Shape, ...]) -> str:
        """Description for logs."""
        return "lengths " + _listed(shapes)


class Folded:
    """A long and a short text per row, in buckets of similar length."""

    def __init__(self, config: LoaderConfig, lengths: Lengths, texts: SharedTexts, *, batch_rows: int, pieces: int):
        rows, self._columns = lengths.documents.shape
        keep = config.last_batch == "keep"
        # The lengths of folds hardly depend on the order of the rows, so these shapes suit every epoch.
        usual = folding.fold(lengths, texts, np.arange(rows), keep_last=keep)
        shapes = _shapes(config, *folding.folded_lengths(lengths, usual.rows), self._columns)
        self.plan = partial(
            folding.plan_folded, lengths, texts, shapes, _multiples(config), batch_rows=batch_rows, keep_last=keep
        )
        self.pieces = pieces
        self._batch_rows = batch_rows
        self._longest = _longest(config, lengths)

    def begin(self, first: EpochPlan) -> list[Shape]:
        """The planned shapes."""
        return _planned(first)

    def shape(self, rows: Int[np.ndarray, " n"], planned: Shape) -> Shape:
        """The planned shape."""
        return planned

    def places(self, shape: Shape) -> int:
        """Number of tokens the encoder computes on, including padding."""
        return self._batch_rows // 2 * (shape.query + self._columns * shape.document)

    def tokens(self, table: TokenTable, ids: Int[np.ndarray, "b c"], shape: Shape, side: SideName) -> Tokens:
        """Tokens, with the positions of two texts per row."""
        longest = getattr(self._longest, side)
        # Pieces among these rows: a host makes only its share of the batch.
        own = len(ids) * self.pieces // self._batch_rows
        lengths = table.lengths[ids].reshape(own, len(ids) // own, -1)
        shared = [folding.places(piece, padded=longest, size=getattr(shape, side)) for piece in lengths]
        return Tokens(*cast(Any, (*table.pad(ids, longest), np.concatenate(shared))))

    def describe(self, shapes: tuple[Shape, ...]) -> str:
        """Description for logs."""
        return f"two texts in lengths {_listed(shapes)}"


class Packed:
    """As many texts per row as fit, separately for every piece of a batch."""

    def __init__(
        self, config: LoaderConfig, lengths: Lengths, texts: SharedTexts, capacity: int, *, batch_rows: int, pieces: int
    ):
        keep = config.last_batch == "keep"
        self.plan = partial(packing.plan_packed, lengths, texts, batch_rows=batch_rows, keep_last=keep)
        self.pieces = pieces
        self._capacity = capacity
        self._batch_rows = batch_rows
        self._lengths = lengths
        self._longest = _longest(config, lengths)
        self._shapes: list[Shape] = []

    def begin(self, first: EpochPlan) -> list[Shape]:
        """One shape for all batches, or two if a few large batches would enlarge all others too much."""
        needed = np.array([self._needed(rows, Shape(0, 0)) for rows in first.rows], np.int64)
        shapes = static_shapes(needed[:, 0], needed[:, 1], multiples=Shape(1, 1), at_most=2, columns=1)
        buckets = make_buckets(needed[:, 0], needed[:, 1], shapes)
        if shapes[buckets.of_row].sum() > (1 - _WORTH) * shapes[-1].sum() * len(needed):
            shapes = shapes[-1:]
        self._shapes = [Shape(*shape) for shape in shapes.tolist()]
        return [self._holding(Shape(*rows)) for rows in needed.tolist()]

    def shape(self, rows: Int[np.ndarray, " n"], planned: Shape) -> Shape:
        """A shape of the first epoch, unless a later batch needs one more row."""
        # Fewer rows than the smallest shape has are of no use, so no search is made for them.
        return self._holding(self._needed(rows, self._shapes[0]))

    def _needed(self, rows: Int[np.ndarray, " n"], enough: Shape) -> Shape:
        """Number of packed rows of the fullest piece, of each side; does not search for fewer than `enough`."""
        sides = (self._lengths.queries[rows], enough.query), (self._lengths.documents[rows], enough.document)
        return Shape(
            *(
                max(packing.packed_rows(piece, self._capacity, few) for piece in side.reshape(self.pieces, -1))
                for side, few in sides
            )
        )

    def _holding(self, needed: Shape) -> Shape:
        for shape in self._shapes:
            if shape.query >= needed.query and shape.document >= needed.document:
                return shape
        return Shape(*(max(pair) for pair in zip(self._shapes[-1], needed, strict=True)))

    def places(self, shape: Shape) -> int:
        """Number of tokens the encoder computes on, including padding."""
        return self.pieces * sum(shape) * self._capacity

    def tokens(self, table: TokenTable, ids: Int[np.ndarray, "b c"], shape: Shape, side: SideName) -> Tokens:
        """Tokens, with their positions in the packed rows."""
        longest, rows = getattr(self._longest, side), getattr(shape, side)
        # Pieces among these rows: a host makes only its share of the batch.
        own = len(ids) * self.pieces // self._batch_rows
        lengths = table.lengths[ids].reshape(own, -1)
        packed = [packing.places(piece, padded=longest, rows=rows, capacity=self._capacity) for piece in lengths]
        return Tokens(*cast(Any, (*table.pad(ids, longest), np.concatenate(packed))))

    def describe(self, shapes: tuple[Shape, ...]) -> str:
        """Description for logs."""
        pieces = f"{self.pieces} x " if self.pieces > 1 else ""
        rows = " ".join(f"{query}+{document}" if query else f"{document}" for query, document in shapes)
        return f"{pieces}{rows} rows of {self._capacity} tokens"


def _planned(plan: EpochPlan) -> list[Shape]:
    return [Shape(*shape) for shape in plan.shapes.tolist()]


def _shapes(
    config: LoaderConfig, queries: Int[np.ndarray, " n"], documents: Int[np.ndarray, " n"], columns: int
) -> Int[np.ndarray, "shapes 2"]:
    return static_shapes(queries, documents, multiples=_multiples(config), at_most=config.shapes, columns=columns)


def _multiples(config: LoaderConfig) -> Shape:
    return Shape(config.pad_to_multiple.query, config.pad_to_multiple.document)


def _longest(config: LoaderConfig, lengths: Lengths) -> Shape:
    sides, multiples = (lengths.queries, lengths.documents), _multiples(config)
    return Shape(*(int(round_up(side.max(keepdims=True), m).max()) for side, m in zip(sides, multiples, strict=True)))


def _check_pieces(batch_rows: int, pieces: int, rows: int) -> None:
    if batch_rows % (pieces * rows):
        what = "loader.packing" if rows == 1 else "loader.folding"
        raise UserError(
            f"{what}: a batch of {batch_rows} rows does not divide into {pieces} pieces (devices times "
            f"train.microbatches) {'of two rows or more ' if rows == 2 else ''}each. Make train.global_batch_size a "
            f"multiple of {pieces * rows}."
        )


def _listed(shapes: tuple[Shape, ...]) -> str:
    return " ".join(f"{query}x{document}" if query else f"{document}" for query, document in shapes)
