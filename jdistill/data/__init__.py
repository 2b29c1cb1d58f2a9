"""Reads data sets and local files as rows of text: query, document, negatives, score, label."""

from jdistill.data.config import ColumnMap, SourceConfig
from jdistill.data.files import place_of, read_columns
from jdistill.data.rows import Row, fingerprint, read_rows
from jdistill.data.values import WrongValueError, identifier, number, text, title

__all__ = [
    "ColumnMap",
    "Row",
    "SourceConfig",
    "WrongValueError",
    "fingerprint",
    "identifier",
    "number",
    "place_of",
    "read_columns",
    "read_rows",
    "text",
    "title",
]
