"""Triplets: whether an anchor is closer to its positive than to its negative."""

from functools import cached_property
from typing import ClassVar, Literal, Self

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import PathText
from jdistill.data import read_columns, text
from jdistill.evaluate.base import Encode, EvaluatorConfig, require_different, vectors
from jdistill.unit_length import unit_length


class Triplet(EvaluatorConfig):
    """Fraction of triplets whose positive scores higher than the negative, on a file of triplets.

    Metric: `cosine_accuracy`, in [0, 1]. Anchors are encoded as queries, the others as documents.

    Source:
      Parity: sentence-transformers TripletEvaluator (since 6.0, which distinguishes queries and documents).
    """

    primary: ClassVar[str] = "cosine_accuracy"
    task: ClassVar[str | None] = "Triplet"

    kind: Literal["triplet"] = "triplet"
    path: PathText = Field(description="Parquet, CSV or JSON-lines file of triplets.")
    anchor: str = Field(default="anchor", description="Column of the anchors.")
    positive: str = Field(default="positive", description="Column of the positives.")
    negative: str = Field(default="negative", description="Column of the negatives.")
    margin: float = Field(default=0.0, description="Minimum difference of the cosines, in [-2, 2].")

    @model_validator(mode="after")
    def _one_column_each(self) -> Self:
        require_different(anchor=self.anchor, positive=self.positive, negative=self.negative)
        return self

    def __call__(self, encode: Encode) -> dict[str, float]:
        """`cosine_accuracy`."""
        anchors, positives, negatives = self._triplets
        queries = vectors(encode, anchors, side="query")
        documents = vectors(encode, positives + negatives, side="document")
        n = len(anchors)
        return {"cosine_accuracy": triplet_accuracy(queries, documents[:n], documents[n:], margin=self.margin)}

    @override
    def prepare(self) -> None:
        _ = self._triplets

    @override
    def metrics(self, width: int) -> list[str]:
        return ["cosine_accuracy"]

    @cached_property
    def _triplets(self) -> tuple[list[str], list[str], list[str]]:
        names = [self.anchor, self.positive, self.negative]
        columns = read_columns(self.path, dict.fromkeys(names, text))
        anchors, positives, negatives = (columns[name] for name in names)
        return anchors, positives, negatives


def triplet_accuracy(
    anchors: Float[np.ndarray, "n d"],
    positives: Float[np.ndarray, "n d"],
    negatives: Float[np.ndarray, "n d"],
    *,
    margin: float = 0.0,
) -> float:
    """Fraction of rows with cos(anchor, positive) > cos(anchor, negative) + margin."""
    anchors = unit_length(anchors)
    wins = (anchors * unit_length(positives)).sum(axis=1) > (anchors * unit_length(negatives)).sum(axis=1) + margin
    return float(wins.mean())
