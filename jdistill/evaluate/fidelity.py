"""Fidelity: how well the student preserves the teacher's geometry on held-out texts.

Agreement with human judgments (sts, retrieval) measures quality; fidelity measures agreement with *this teacher*. It
needs no labels, only texts and the teacher's vectors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt

from jdistill.config import Config, UserError
from jdistill.evaluate.base import Encode, SideName, ranks, vectors
from jdistill.evaluate.ranking import first_best
from jdistill.unit_length import unit_length


class FidelityConfig(Config):
    """Options of the comparison with a teacher, on texts and vectors of the store."""

    neighbours: PositiveInt = Field(default=10, description="Number of nearest neighbours to compare.")
    limit: PositiveInt = Field(
        default=2000, description="Maximum number of held-out texts to compare; the cost is quadratic."
    )

    def rows(self, count: int) -> Int[np.ndarray, " n"]:
        """Indices of the texts to compare: at most `limit` of `count`, evenly spaced to cover all sources."""
        return np.unique(np.linspace(0, count - 1, min(count, self.limit)).round().astype(np.int64))


@dataclass(frozen=True)
class Fidelity:
    """Evaluates a student's fidelity to given teacher vectors."""

    primary: ClassVar[str] = "spearman"
    task: ClassVar[str | None] = "Knowledge Distillation"

    config: FidelityConfig
    texts: Mapping[SideName, list[str]]
    """Side -> distinct texts, which teacher and student encode with that side's prompt."""
    teacher: Float[np.ndarray, "n t"]
    """The teacher's vectors of all texts, `[n, t]`, sides concatenated in order."""

    def __call__(self, encode: Encode) -> dict[str, float]:
        """The metrics of `fidelity`."""
        student = [vectors(encode, texts, side=side) for side, texts in self.texts.items()]
        return fidelity(
            np.concatenate(student), np.asarray(self.teacher, np.float32), neighbours=self.config.neighbours
        )

    def prepare(self) -> None:
        """Check that there are enough texts.

        Raises:
          UserError: if there are fewer than three distinct texts, the minimum for ranking.
        """
        found = len({text for texts in self.texts.values() for text in texts})
        if found < 3:
            raise UserError(
                f"fidelity: {found} different held-out texts to compare with the teacher's vectors, expected at least "
                "3. Add rows with role: heldout, raise fidelity.limit, or disable the comparison with fidelity: null."
            )

    def metrics(self, width: int) -> list[str]:
        """Names of the metrics that a call returns, for vectors of this width."""
        equal = ["cosine", "negative_mse"] if width == self.teacher.shape[1] else []
        return ["spearman", f"overlap@{self.config.neighbours}", *equal]


def fidelity(
    student: Float[np.ndarray, "n d"], teacher: Float[np.ndarray, "n t"], *, neighbours: int = 10
) -> dict[str, float]:
    """Agreement of two sets of vectors of the same texts.

    Args:
      student: `[n, d]`.
      teacher: `[n, t]`.
      neighbours: number `k` of nearest neighbours, at most the number of other texts.

    Returns:
      - `spearman`: rank correlation of the student's and teacher's cosines of a text with all other texts, averaged
        over texts; in [-1, 1]. A text whose cosines are all equal counts 0.
      - `overlap@k`: fraction of the k nearest neighbours that student and teacher share, averaged; in [0, 1].
      - `cosine`: mean cosine of student and teacher vectors, in [-1, 1]. Only if the widths are equal.
      - `negative_mse`: -100 times the mean squared difference, as in sentence-transformers' MSEEvaluator. Only if the
        widths are equal.

    Raises:
      ValueError: if there are fewer than three texts, or the counts differ.
    """
    if len(student) != len(teacher) or len(student) < 3:
        raise ValueError(f"fidelity needs the same three or more texts, got {len(student)} and {len(teacher)} vectors")
    correlations, overlaps = [], []
    for ours, theirs in zip(_other_scores(student), _other_scores(teacher), strict=True):
        correlations.append(_row_spearman(ours, theirs))
        overlaps.append(_row_overlap(ours, theirs, neighbours))
    metrics = {
        "spearman": float(np.concatenate(correlations).mean()),
        f"overlap@{neighbours}": float(np.concatenate(overlaps).mean()),
    }
    if student.shape[1] == teacher.shape[1]:
        metrics["cosine"] = float((unit_length(student) * unit_length(teacher)).sum(axis=1).mean())
        metrics["negative_mse"] = float(-100.0 * np.square(student - teacher).mean())
    return metrics


def _other_scores(embeddings: Float[np.ndarray, "n d"]) -> Iterator[Float[np.ndarray, "c m"]]:
    """Cosines of each text with all *other* texts, `[c, n - 1]`, in chunks of rows."""
    embeddings = unit_length(embeddings)
    n = len(embeddings)
    for start in range(0, n, 256):
        scores = embeddings[start : start + 256] @ embeddings.T
        others = np.arange(n) != np.arange(start, start + len(scores))[:, None]
        # Every row lacks exactly one element, its own.
        yield scores[others].reshape(len(scores), n - 1)


def _row_spearman(x: Float[np.ndarray, "c m"], y: Float[np.ndarray, "c m"]) -> Float[np.ndarray, " c"]:
    x, y = (each - each.mean(axis=1, keepdims=True) for each in (ranks(x), ranks(y)))
    norms = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    return (x * y).sum(axis=1) / np.where(norms > 0, norms, 1.0)


def _row_overlap(x: Float[np.ndarray, "c m"], y: Float[np.ndarray, "c m"], k: int) -> Float[np.ndarray, " c"]:
    ours, theirs = first_best(x, k), first_best(y, k)
    return (ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean(axis=1)
