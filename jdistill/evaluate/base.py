"""What every evaluator is: a configuration that can be called on an encode function and returns named numbers."""

from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float

from jdistill.config import Config

SideName: TypeAlias = Literal["query", "document"]


class Encode(Protocol):
    """Texts to vectors, with the model's prompt of that side put in front of each text."""

    def __call__(self, texts: list[str], *, side: SideName) -> Float[np.ndarray, "n d"]:
        """One float32 vector per text, in order."""
        ...


class EvaluatorConfig(Config):
    """One named measurement. A subclass adds `kind: Literal["its_name"]`, its options, `primary` and `__call__`.

    Files are read by `prepare` or the first call and kept, so that evaluating every few hundred steps reads them once.
    """

    primary: ClassVar[str]
    """The metric that stands for the whole: what `keep_best` watches and what short tables show. Higher is better."""

    kind: str

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Metric name -> value, such as `{"spearman_cosine": 0.83}`.

        Raises:
          UserError: if a file is missing or does not hold what the configuration says.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Read and check the files, so that a mistake is found before hours of training and not after.

        Raises:
          UserError: as a call does.
        """
        raise NotImplementedError

    def metrics(self, width: int) -> list[str]:
        """Names of the metrics that a call returns.

        Args:
          width: of the model's vectors.
        """
        raise NotImplementedError


def require_different(**columns: str | None) -> None:
    """Refuse one column for two things.

    Raises:
      ValueError: naming both options and the column.
    """
    seen: dict[str, str] = {}
    for option, column in columns.items():
        if column in seen:
            raise ValueError(f"'{seen[column]}' and '{option}' are both the column '{column}'. Name a column for each.")
        if column is not None:
            seen[column] = option


def vectors(encode: Encode, texts: list[str], *, side: SideName) -> Float[np.ndarray, "n d"]:
    """`encode`'s answer as float32, checked: one finite vector per text.

    Raises:
      ValueError: if it is not; a metric of such vectors would be a number without meaning.
    """
    embeddings = np.asarray(encode(texts, side=side), np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(texts):
        raise ValueError(f"encode gave an array {embeddings.shape} for {len(texts)} texts, expected [{len(texts)}, d]")
    if not np.isfinite(embeddings).all():
        rows = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        raise ValueError(f"encode gave NaN or infinity for {len(rows)} of {len(texts)} texts, first in row {rows[0]}")
    return embeddings


def ranks(values: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Along the last axis, from 1 on; equal values share the mean of theirs."""
    from scipy.stats import rankdata  # takes a second to import, which every start of a command would pay

    return rankdata(values, axis=-1)


def unit(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1; a zero row stays zero (torch's `F.normalize`: divide by max(norm, 1e-12))."""
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)
