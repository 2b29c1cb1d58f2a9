"""Where texts come from, and which column is what."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from jdistill.config import Config, PathText


class ColumnMap(Config):
    """Which column of the data is what: either `text` alone, or `query` and `document` with what else there is."""

    text: str | None = None
    """Column of plain texts. A plain text is a document without a query."""
    query: str | None = None
    """Column of queries, questions or anchors."""
    document: str | None = None
    """Column of the document that answers the query (its positive). A list of several gives a row for each of them."""
    negatives: list[str] | str = Field(default_factory=list)
    """Columns of hard negatives; each holds one text or a list of texts per row."""
    score: list[str] | str | None = None
    """Columns of scores; each holds one number or a list of numbers per row. Together they give either one score per
    row, such as a label, or one per document (its own, then each hard negative's), or one margin per hard negative."""
    label: str | None = None
    """Column of each row's class: a name or a whole number. With it, `text` rows make groups to tell apart
    (batch_triplet), and pairs have a relation to be recognised (label_softmax). A 0 or 1 that says whether a pair
    belongs together is a `score`."""
    keep_negatives: PositiveInt | None = None
    """Keep the first so many negatives of each row, and their scores; null: all, and every row must have the same
    number."""

    @model_validator(mode="after")
    def _texts_or_pairs(self) -> Self:
        if self.text is not None:
            others = [key for key in ("query", "document", "negatives", "score") if getattr(self, key)]
            if others:
                raise ValueError(f"'text' is for plain texts and excludes {', '.join(others)}. Keep one of both.")
        elif self.query is None and self.document is None:
            raise ValueError("names no texts. Give 'text', or 'query' and 'document'.")
        elif self.query is None or self.document is None:
            missing = "query" if self.query is None else "document"
            raise ValueError(f"'{missing}' is missing. Pairs need 'query' and 'document'; plain texts go by 'text'.")
        if self.keep_negatives is not None and not self.negatives:
            raise ValueError(f"'keep_negatives' is {self.keep_negatives}, but 'negatives' names no column.")
        return self

    @property
    def negative_columns(self) -> list[str]:
        """`negatives` as a list."""
        return [self.negatives] if isinstance(self.negatives, str) else self.negatives

    @property
    def score_columns(self) -> list[str]:
        """`score` as a list."""
        return [self.score] if isinstance(self.score, str) else self.score or []

    @property
    def used(self) -> list[str]:
        """Every column that is read, each once."""
        named = [self.text, self.query, self.document, *self.negative_columns, *self.score_columns, self.label]
        return list(dict.fromkeys(column for column in named if column is not None))


class SourceConfig(Config):
    """One named source of texts: local files, or a data set of the Hugging Face hub."""

    path: PathText | None = None
    """A .parquet, .csv, .tsv or .jsonl file, or a glob of such files, read in the order of their names. Text files are
    UTF-8. Quotation marks enclose cells in .csv and are part of the text in .tsv; a row is counted from 1, without the
    header."""
    dataset: PathText | None = None
    """A data set's id on the Hugging Face hub, or a folder written by `Dataset.save_to_disk`."""
    name: str | None = None
    """The data set's configuration, where it has several."""
    split: str = "train"
    """The data set's split."""
    revision: str | None = None
    """The data set's commit, tag or branch; a commit makes the run repeatable."""
    streaming: bool = False
    """Read the data set over the network as it is needed, instead of downloading it first."""
    columns: ColumnMap
    limit: PositiveInt | None = None
    """Stop after so many rows; null: read all."""
    empty: Literal["error", "drop"] = "error"
    """What to do with a row of which a text, a score or a negative is missing: null, NaN, half a character, or nothing
    that can be seen. `drop` leaves it out and counts it."""
    role: Literal["train", "heldout"] = "train"
    """Rows are trained on, or kept apart to compare student and teacher."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give one of 'path' (local files) and 'dataset' (a data set of the hub).")
        if self.path is not None:
            hub_only = ("name", "split", "revision", "streaming")
            extra = [key for key in hub_only if getattr(self, key) != type(self).model_fields[key].default]
            if extra:
                raise ValueError(f"{', '.join(extra)}: for a 'dataset' only, but 'path' is given.")
        return self
