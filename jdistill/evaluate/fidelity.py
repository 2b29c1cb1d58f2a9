"""Fidelity: how much of the teacher's geometry the student kept, on texts it was not trained on.

Correlation with people (sts, retrieval) tells whether a student is good; fidelity tells whether it is *this teacher's*
student. It needs no labels, only texts and the vectors that the teacher gave them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt

from jdistill.config import Config, UserError
from jdistill.evaluate.base import Encode, SideName, ranks, unit, vectors
from jdistill.evaluate.ranking import first_best


class FidelityConfig(Config):
    """Options of the comparison with a teacher. Texts and vectors come from the store, so they are no option."""

    neighbours: PositiveInt = Field(default=10, description="Size of the neighbourhoods that are compared.")
    limit: PositiveInt = Field(
        default=2000, description="Most held-out texts to compare; the work grows with its square."
    )

    def rows(self, count: int) -> Int[np.ndarray, " n"]:
        """Which of `count` texts to compare: at most `limit`, evenly spread, so that every source has its part."""
        return np.unique(np.linspace(0, count - 1, min(count, self.limit)).round().astype(np.int64))


@dataclass(frozen=True)
class Fidelity:
    """A student's fidelity to given teacher vectors; callable as every evaluator is."""

    primary: ClassVar[str] = "spearman"

    config: FidelityConfig
    texts: Mapping[SideName, list[str]]
    """Side, whose prompt the teacher saw and the student gets -> different texts."""
    teacher: Float[np.ndarray, "n t"]
    """The teacher's vector of each text, `[n, t]`, side after side."""

    def __call__(self, encode: Encode) -> dict[str, float]:
        """The agreement with the teacher, as `fidelity` names it."""
        student = [vectors(encode, texts, side=side) for side, texts in self.texts.items()]
        return fidelity(
            np.concatenate(student), np.asarray(self.teacher, np.float32), neighbours=self.config.neighbours
        )

    def prepare(self) -> None:
        """Check that there are enough texts.

        Raises:
          UserError: if there are fewer than three different ones, of which no two could be ranked by a third.
        """
        found = len({text for texts in self.texts.values() for text in texts})
        if found < 3:
            raise UserError(
                f"fidelity: {found} different held-out texts are compared with the teacher's vectors, expected at "
                "least 3. Add rows with role: heldout, or raise fidelity.limit, or set fidelity: null to leave the "
                "comparison out."
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
      neighbours: size `k` of the neighbourhoods; where there are fewer other texts, all of them.

    Returns:
      - `spearman`: for each text, the rank correlation of student's and teacher's cosine to all other texts, averaged;
        in [-1, 1]. A text to which the student finds all others equally alike counts 0.
      - `overlap@k`: share of the k nearest other texts that both agree on, averaged; in [0, 1].
      - `cosine`: mean cosine of student and teacher vector, in [-1, 1]. Only where the widths are equal.
      - `negative_mse`: -100 times the mean squared difference, as sentence-transformers' MSEEvaluator scales it. Only
        where the widths are equal.

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
        metrics["cosine"] = float((unit(student) * unit(teacher)).sum(axis=1).mean())
        metrics["negative_mse"] = float(-100.0 * np.square(student - teacher).mean())
    return metrics


def _other_scores(embeddings: Float[np.ndarray, "n d"]) -> Iterator[Float[np.ndarray, "c m"]]:
    """Cosine of each text to all *other* texts, `[c, n - 1]`, a few rows at a time."""
    embeddings = unit(embeddings)
    n = len(embeddings)
    for start in range(0, n, 256):
        scores = embeddings[start : start + 256] @ embeddings.T
        others = np.arange(n) != np.arange(start, start + len(scores))[:, None]
        yield scores[others].reshape(len(scores), n - 1)


def _row_spearman(x: Float[np.ndarray, "c m"], y: Float[np.ndarray, "c m"]) -> Float[np.ndarray, " c"]:
    x, y = (each - each.mean(axis=1, keepdims=True) for each in (ranks(x), ranks(y)))
    norms = np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum(axis=1))
    return (x * y).sum(axis=1) / np.where(norms > 0, norms, 1.0)


def _row_overlap(x: Float[np.ndarray, "c m"], y: Float[np.ndarray, "c m"], k: int) -> Float[np.ndarray, " c"]:
    ours, theirs = first_best(x, k), first_best(y, k)
    return (ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean(axis=1)
