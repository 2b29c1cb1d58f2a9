"""Named data sets and local files as rows of text: query, document, negatives, score."""

from jdistill.data.config import ColumnMap, SourceConfig
from jdistill.data.files import read_columns
from jdistill.data.rows import Row, fingerprint, read_rows

__all__ = ["ColumnMap", "Row", "SourceConfig", "fingerprint", "read_columns", "read_rows"]
