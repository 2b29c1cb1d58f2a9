"""The rows of a batch, without their content: how many texts, how long, and how they lie in the encoder's rows."""

from math import ceil
from typing import NamedTuple


class SharedRows(NamedTuple):
    """Rows of the encoder that the texts of one side share."""

    length: int
    """Places of one."""
    per_row: float
    """How many of them there are for each row of the batch. A piece of a batch has a whole number, rounded up."""

    def of_piece(self, rows: int) -> int:
        """How many a piece of so many rows of the batch has."""
        return ceil(round(rows * self.per_row, 6))  # not one more because of 0.1 + 0.2


class Shared(NamedTuple):
    """How texts share rows of the encoder."""

    queries: SharedRows | None
    """None where rows are plain texts."""
    documents: SharedRows
    """Of documents and hard negatives together."""
    multiple: int
    """Rows of a piece come in multiples of this: 2 where they are folded two by two, else 1."""


class RowForm(NamedTuple):
    """The rows of a batch, without their content."""

    query_length: int
    """Tokens that queries are padded to; 0 where rows are plain texts."""
    document_length: int
    documents: int
    """Of each row: its document and its hard negatives."""
    scores: int
    """Numbers per row; 0 where the data has none."""
    shared: Shared | None = None
    """How texts share rows of the encoder; None where each has its own, as long as it is padded."""
    labels: bool = False
    """Whether rows have a class."""

    @property
    def sides(self) -> tuple[tuple[int, SharedRows], ...]:
        """Queries, where there are any, then documents: texts of a row, and the rows in which the encoder has them."""
        plain = Shared(SharedRows(self.query_length, 1), SharedRows(self.document_length, self.documents), multiple=1)
        rows = self.shared or plain
        documents = (self.documents, rows.documents)
        return ((1, rows.queries), documents) if self.query_length and rows.queries else (documents,)

    @property
    def tokens(self) -> float:
        """Of one row of the batch, padding included: what the encoder computes on."""
        return sum(rows.length * rows.per_row for _, rows in self.sides)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the encoder's rows, side by side."""
        return tuple(rows.length for _, rows in self.sides)

    @property
    def texts(self) -> int:
        """Of one row."""
        return self.documents + (1 if self.query_length else 0)

    @property
    def multiple(self) -> int:
        """Rows of a piece come in multiples of this."""
        return 1 if self.shared is None else self.shared.multiple

    def folded(self, query: int, document: int) -> "RowForm":
        """The same texts two by two in rows of so many tokens."""
        queries, documents = SharedRows(query, 0.5), SharedRows(document, 0.5 * self.documents)
        return self._replace(shared=Shared(queries if self.query_length else None, documents, multiple=2))

    def packed(self, capacity: int, query: float, document: float) -> "RowForm":
        """The same texts in rows of `capacity` tokens, so many of each side for each row of the batch."""
        queries, documents = SharedRows(capacity, query), SharedRows(capacity, document)
        return self._replace(shared=Shared(queries if self.query_length else None, documents, multiple=1))
