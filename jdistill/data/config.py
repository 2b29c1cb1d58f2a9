"""Config of text sources and their columns."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from jdistill.config import Config, PathText


class ColumnMap(Config):
    """Maps columns of the data: either `text`, or `query` and `document` with optional others."""

    text: str | None = None
    """Column of plain texts, i.e. documents without queries."""
    query: str | None = None
    """Column of queries, questions or anchors."""
    document: str | None = None
    """Column of positives: the document that answers the query. A list of several makes one row of each."""
    negatives: list[str] | str = Field(default_factory=list)
    """Columns of hard negatives, each with one text or a list of texts per row."""
    score: list[str] | str | None = None
    """Columns of scores, each with one number or a list of numbers per row. Together they give either one score per
    row, such as a label, or one per document (the positive, then each hard negative), or one margin per hard
    negative."""
    label: str | None = None
    """Column of each row's class: a name or a whole number. Used to group `text` rows (batch_triplet) and to classify
    pairs (label_softmax). If 0 or 1 says whether a pair is related, use `score`."""
    keep_negatives: PositiveInt | None = None
    """Keep the first N negatives of each row and their scores; null keeps all, and every row must have the same
    number."""

    @model_validator(mode="after")
    def _texts_or_pairs(self) -> Self:
        if self.text is not None:
            others = [key for key in ("query", "document", "negatives", "score") if getattr(self, key)]
            if others:
                raise ValueError(f"'text' (plain texts) excludes {', '.join(others)}. Remove one or the other.")
        elif self.query is None and self.document is None:
            raise ValueError("has no text column. Set 'text', or 'query' and 'document'.")
        elif self.query is None or self.document is None:
            missing = "query" if self.query is None else "document"
            raise ValueError(f"'{missing}' is missing. Pairs need 'query' and 'document'; plain texts need 'text'.")
        if self.keep_negatives is not None and not self.negatives:
            raise ValueError(f"'keep_negatives' is {self.keep_negatives}, but 'negatives' is empty.")
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
        """All columns to read, without repetition."""
        named = [self.text, self.query, self.document, *self.negative_columns, *self.score_columns, self.label]
        return list(dict.fromkeys(column for column in named if column is not None))


class SourceConfig(Config):
    """A source of texts: local files, or a data set on the Hugging Face hub."""

    path: PathText | None = None
    """A .parquet, .csv, .tsv or .jsonl file, or a glob of such files, read in the order of their names. Text files must
    be UTF-8. Quotation marks enclose cells in .csv and are part of the text in .tsv."""
    dataset: PathText | None = None
    """A data set's id on the Hugging Face hub, or a folder written by `Dataset.save_to_disk`."""
    name: str | None = None
    """The data set's configuration, if it has several."""
    split: str = "train"
    """The data set's split."""
    revision: str | None = None
    """The data set's commit, tag or branch; a commit makes the run reproducible."""
    streaming: bool = False
    """Stream the data set instead of downloading it first."""
    columns: ColumnMap
    limit: PositiveInt | None = None
    """Maximum number of rows to read; null reads all."""
    empty: Literal["error", "drop"] = "error"
    """What to do with rows that lack a text, score or negative: null, NaN, a lone surrogate, or only invisible
    characters. `drop` skips and counts them."""
    role: Literal["train", "heldout"] = "train"
    """Use the rows for training, or hold them out to compare student and teacher."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("set either 'path' (local files) or 'dataset' (a data set on the hub).")
        if self.path is not None:
            hub_only = ("name", "split", "revision", "streaming")
            extra = [key for key in hub_only if getattr(self, key) != type(self).model_fields[key].default]
            if extra:
                raise ValueError(f"{', '.join(extra)}: only for 'dataset', but 'path' is set.")
        return self
