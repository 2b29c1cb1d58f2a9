"""Semantic textual similarity: correlation of a model's pair scores with human scores."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal, Self

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import PathText, UserError
from jdistill.data import number, read_columns, text
from jdistill.evaluate.base import Encode, EvaluatorConfig, SideName, ranks, require_different, vectors
from jdistill.unit_length import unit_length

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


class STS(EvaluatorConfig):
    """Correlation of the model's pair scores with human scores, on a file of sentence pairs.

    Metrics: `pearson_<similarity>` and `spearman_<similarity>`, in [-1, 1]. `spearman_cosine` is usually reported.

    Source:
      Reimers and Gurevych 2019, arXiv:1908.10084, section 4.
      Parity: sentence-transformers EmbeddingSimilarityEvaluator, which encodes without a prompt; here the prompt of
      `side` is used, so results agree if that is empty.
    """

    primary: ClassVar[str] = "spearman_cosine"
    task: ClassVar[str | None] = "Semantic Similarity"

    kind: Literal["sts"] = "sts"
    path: PathText = Field(description="Parquet, CSV or JSON-lines file of scored pairs.")
    sentence1: str = Field(default="sentence1", description="Column of the first texts.")
    sentence2: str = Field(default="sentence2", description="Column of the second texts.")
    score: str = Field(default="score", description="Column of the human scores, on any scale.")
    similarities: tuple[Similarity, ...] = Field(
        default=("cosine",), description="Similarities to evaluate, besides cosine."
    )
    side: SideName = Field(default="document", description="Side whose prompt both texts get.")

    @model_validator(mode="after")
    def _one_column_each(self) -> Self:
        require_different(sentence1=self.sentence1, sentence2=self.sentence2, score=self.score)
        return self

    def __call__(self, encode: Encode) -> dict[str, float]:
        """`pearson_x` and `spearman_x` for every similarity."""
        sentences1, sentences2, scores = self._pairs
        both = vectors(encode, sentences1 + sentences2, side=self.side)
        first, second = both[: len(scores)], both[len(scores) :]
        return sts(first, second, scores, similarities=dict.fromkeys(("cosine", *self.similarities)))

    @override
    def prepare(self) -> None:
        _ = self._pairs

    @override
    def metrics(self, width: int) -> list[str]:
        names = dict.fromkeys(("cosine", *self.similarities))
        return [f"{kind}_{name}" for name in names for kind in ("pearson", "spearman")]

    @cached_property
    def _pairs(self) -> tuple[list[str], list[str], Float[np.ndarray, " n"]]:
        columns = read_columns(self.path, {self.sentence1: text, self.sentence2: text, self.score: number})
        sentences1, sentences2 = columns[self.sentence1], columns[self.sentence2]
        scores = np.asarray(columns[self.score], np.float64)
        if (scores == scores[0]).all():
            raise UserError(
                f"{self.path}, column '{self.score}': all {len(scores)} scores are {scores[0]:g}, so there is no "
                "correlation. Expected at least two different scores; choose another column or file."
            )
        return sentences1, sentences2, scores


def sts(
    first: Float[np.ndarray, "n d"],
    second: Float[np.ndarray, "n d"],
    scores: Float[np.ndarray, " n"],
    *,
    similarities: Sequence[Similarity] | dict[Similarity, None] = ("cosine",),
) -> dict[str, float]:
    """Pearson and Spearman correlation of pair scores with `scores`.

    Args:
      first: vectors of the first texts, `[n, d]`.
      second: vectors of the second texts, `[n, d]`.
      scores: human scores, `[n]`, not all equal.
      similarities: pair scores to use; distances are negated, so that higher always means more similar.

    Returns:
      `pearson_x` and `spearman_x` for each similarity; 0 for a collapsed model, whose pair scores are all equal.
    """
    metrics = {}
    for name in similarities:
        predicted = SIMILARITIES[name](first.astype(np.float64), second.astype(np.float64))
        # Rounding would otherwise be correlated with the human scores.
        collapsed = np.ptp(predicted) <= 1e-12 * max(1.0, float(np.abs(predicted).max()))
        metrics[f"pearson_{name}"] = 0.0 if collapsed else _pearson(predicted, scores)
        metrics[f"spearman_{name}"] = 0.0 if collapsed else _pearson(ranks(predicted), ranks(scores))
    return metrics


def _pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    return float(np.corrcoef(x, y)[0, 1])


SIMILARITIES = {
    "cosine": lambda x, y: (unit_length(x) * unit_length(y)).sum(axis=1),
    "dot": lambda x, y: (x * y).sum(axis=1),
    "euclidean": lambda x, y: -np.linalg.norm(x - y, axis=1),
    "manhattan": lambda x, y: -np.abs(x - y).sum(axis=1),
}
"""Pair scores `([n, d], [n, d]) -> [n]`; higher is more similar."""
