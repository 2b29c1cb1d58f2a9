"""Base of evaluators: configs that are called with an encode function and return named metrics."""

from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float

from jdistill.config import Kind

SideName: TypeAlias = Literal["query", "document"]


class Encode(Protocol):
    """Encodes texts to vectors, with the model's prompt of that side prepended."""

    def __call__(self, texts: list[str], *, side: SideName) -> Float[np.ndarray, "n d"]:
        """One float32 vector per text, in order."""
        ...


class EvaluatorConfig(Kind):
    """Base of evaluators. A subclass adds `kind: Literal["its_name"]`, its options, `primary` and `__call__`.

    Files are read once, by `prepare` or the first call, and cached.
    """

    primary: ClassVar[str]
    """The main metric, watched by `keep_best` and shown in short tables. Higher is better."""
    task: ClassVar[str | None] = "Evaluation"
    """Title of the task in the model card's results for the hub; None leaves the evaluator out of them."""

    def __call__(self, encode: Encode) -> dict[str, float]:
        """Metric name -> value, such as `{"spearman_cosine": 0.83}`.

        Raises:
          UserError: if a file is missing or does not match the config.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Read and check the files, if there are any, so that errors are found before training.

        Raises:
          UserError: as a call does.
        """

    def metrics(self, width: int) -> list[str]:
        """Names of the metrics that a call returns.

        Args:
          width: width of the model's vectors.
        """
        raise NotImplementedError


def require_different(**columns: str | None) -> None:
    """Refuse options that name the same column.

    Raises:
      ValueError: naming both options and the column.
    """
    seen: dict[str, str] = {}
    for option, column in columns.items():
        if column in seen:
            raise ValueError(f"'{seen[column]}' and '{option}' are both the column '{column}'. Use different columns.")
        if column is not None:
            seen[column] = option


def vectors(encode: Encode, texts: list[str], *, side: SideName) -> Float[np.ndarray, "n d"]:
    """Call `encode` and check that it returns one finite vector per text; float32 `[n, d]`.

    Raises:
      ValueError: if it does not.
    """
    embeddings = np.asarray(encode(texts, side=side), np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(texts):
        raise ValueError(f"encode returned shape {embeddings.shape} for {len(texts)} texts, expected [{len(texts)}, d]")
    if not np.isfinite(embeddings).all():
        rows = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        raise ValueError(f"encode returned NaN or infinity for {len(rows)} of {len(texts)} texts, first row {rows[0]}")
    return embeddings


def ranks(values: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Ranks along the last axis, counted from 1; ties get their mean rank."""
    from scipy.stats import rankdata  # takes a second to import

    return rankdata(values, axis=-1)
