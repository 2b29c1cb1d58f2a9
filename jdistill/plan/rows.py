"""The form of a batch's rows, without content: number and length of texts, and packing into encoder rows."""

from math import ceil
from typing import NamedTuple


class SharedRows(NamedTuple):
    """Encoder rows shared by the texts of one side (packing or folding)."""

    length: int
    """Tokens per encoder row."""
    per_row: float
    """Encoder rows per batch row. A piece of a batch has a whole number, rounded up."""

    def of_piece(self, rows: int) -> int:
        """Number of encoder rows of a piece of `rows` batch rows."""
        return ceil(round(rows * self.per_row, 6))  # rounded first, so that 0.1 + 0.2 does not add a row


class Shared(NamedTuple):
    """How texts share encoder rows."""

    queries: SharedRows | None
    """None if rows are plain texts."""
    documents: SharedRows
    """Documents and hard negatives together."""
    multiple: int
    """The rows of a piece must be a multiple of this: 2 with folding, otherwise 1."""


class RowForm(NamedTuple):
    """The form of a batch's rows, without content."""

    query_length: int
    """Padded length of queries, in tokens; 0 if rows are plain texts."""
    document_length: int
    documents: int
    """Documents per row: the positive and its hard negatives."""
    scores: int
    """Scores per row; 0 without scores."""
    shared: Shared | None = None
    """How texts share encoder rows; None if each text has its own, padded row."""
    labels: bool = False
    """Whether rows have a label."""

    @property
    def sides(self) -> tuple[tuple[int, SharedRows], ...]:
        """Queries, if any, then documents: texts per batch row, and their encoder rows."""
        plain = Shared(SharedRows(self.query_length, 1), SharedRows(self.document_length, self.documents), multiple=1)
        rows = self.shared or plain
        documents = (self.documents, rows.documents)
        return ((1, rows.queries), documents) if self.query_length and rows.queries else (documents,)

    @property
    def tokens(self) -> float:
        """Encoder tokens per batch row, padding included."""
        return sum(rows.length * rows.per_row for _, rows in self.sides)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of the encoder rows of each side."""
        return tuple(rows.length for _, rows in self.sides)

    @property
    def texts(self) -> int:
        """Texts per batch row."""
        return self.documents + (1 if self.query_length else 0)

    @property
    def multiple(self) -> int:
        """The rows of a piece must be a multiple of this."""
        return 1 if self.shared is None else self.shared.multiple

    def folded(self, query: int, document: int) -> "RowForm":
        """The same texts, folded two per encoder row of `query` or `document` tokens."""
        queries, documents = SharedRows(query, 0.5), SharedRows(document, 0.5 * self.documents)
        return self._replace(shared=Shared(queries if self.query_length else None, documents, multiple=2))

    def packed(self, capacity: int, query: float, document: float) -> "RowForm":
        """The same texts, packed into encoder rows of `capacity` tokens; `query` and `document`: rows per batch row."""
        queries, documents = SharedRows(capacity, query), SharedRows(capacity, document)
        return self._replace(shared=Shared(queries if self.query_length else None, documents, multiple=1))
