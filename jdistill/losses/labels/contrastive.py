"""Contrastive losses: pairs that belong together come near, and others stay at least a margin apart."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from pydantic import Field, PositiveFloat, model_validator

from jdistill.losses.base import LossConfig, Needs, queries_of
from jdistill.losses.labels.distances import PairDistance, distant_enough, pair_distances
from jdistill.losses.labels.pairs import labels_of
from jdistill.losses.maths import float32
from jdistill.types import Columns, View


class _OfPairs(LossConfig):
    """A loss of pairs whose score is 1 where they belong together, and 0 where they do not."""

    distance: PairDistance = "cosine"
    """One minus the cosine of two vectors, the length of their difference, or the sum of its elements' sizes
    (manhattan)."""
    margin: PositiveFloat = Field(
        default=0.5, description="Pairs of label 0 that are at least this far apart cost nothing; a distance."
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> "_OfPairs":
        distant_enough(self.distance, self.margin)
        return self

    def examine(self, teacher: Columns | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Whether scores are other numbers than 0 and 1."""
        if scores is None or bool(((scores == 0) | (scores == 1)).all()):
            return []
        return [
            f"scores of the first batch lie between {float(scores.min()):g} and {float(scores.max()):g}, expected 0 "
            "for pairs that do not belong together and 1 for those that do. Use cosent for pairs that people scored "
            "on a scale."
        ]


class Contrastive(_OfPairs):
    """Squared distance of pairs of label 1, and squared shortfall from the margin of pairs of label 0."""

    kind: Literal["contrastive"] = "contrastive"

    def needs(self) -> Needs:
        """Nothing but the row."""
        return Needs(batch=False)

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Value of each row; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts, or have not one score each.
        """
        queries, labels = queries_of(view.student.queries, self.kind), labels_of(view.scores, self.kind)
        return contrastive(queries, view.student.documents, labels, margin=self.margin, distance=self.distance)


class OnlineContrastive(_OfPairs):
    """The contrastive loss of a batch's hard pairs only: those that stand on the wrong side of some other pair."""

    kind: Literal["online_contrastive"] = "online_contrastive"

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Value of each row, times the rows of the batch, since the loss is a sum; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts, or have not one score each.
        """
        queries = queries_of(view.student.all_queries, self.kind)
        labels = labels_of(view.all_scores, self.kind)
        documents = view.student.all_documents[: len(labels)]
        values = online_contrastive(queries, documents, labels, margin=self.margin, distance=self.distance)
        return len(labels) * values[view.rows]


def contrastive(
    queries: Float[Array, "b d"],
    documents: Float[Array, "b d"],
    labels: Float[Array, " b"],
    *,
    margin: float = 0.5,
    distance: PairDistance = "cosine",
) -> Float[Array, " b"]:
    """Pull pairs of label 1 together, and push pairs of label 0 apart until they are a margin away.

    For pairs of which one only knows whether they belong together, such as duplicate questions.
        loss_i = (y_i dist(q_i, d_i)^2 + (1 - y_i) relu(margin - dist(q_i, d_i))^2) / 2

    Args:
      queries: of these rows, `[b, d]`, any float; maths runs in float32.
      documents: the other text of each pair, `[b, d]`.
      labels: 1 for pairs that belong together, 0 for others, `[b]`; a number between weighs both parts.
      margin: how far apart is far enough; a distance, > 0.
      distance: `"cosine"`, `"euclidean"` or `"manhattan"`.

    Returns:
      Value of each pair, `[b]`, >= 0.

    Source:
      Hadsell et al. 2006, doi:10.1109/CVPR.2006.100, equation 4, whose Y is 1 for pairs that do not belong together.
      Parity: sentence-transformers ContrastiveLoss(margin=margin) with each SiameseDistanceMetric.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> contrastive(x, x, jnp.array([1.0, 0.0])).tolist()
      [0.0, 0.125]
    """
    apart, labels = pair_distances(queries, documents, distance), float32(labels)
    return 0.5 * (labels * jnp.square(apart) + (1 - labels) * jnp.square(jax.nn.relu(margin - apart)))


def online_contrastive(
    queries: Float[Array, "n d"],
    documents: Float[Array, "n d"],
    labels: Float[Array, " n"],
    *,
    margin: float = 0.5,
    distance: PairDistance = "cosine",
) -> Float[Array, " n"]:
    """The contrastive loss of the hard pairs of a batch; the others count as 0.

    A pair of label 1 is hard if it is farther apart than the nearest pair of label 0, and a pair of label 0 if it is
    nearer than the farthest pair of label 1. Where a batch has pairs of one label only, each is compared with their
    mean distance.
        loss_i = dist(q_i, d_i)^2 of a hard pair of label 1, relu(margin - dist(q_i, d_i))^2 of one of label 0

    Args:
      queries: of the whole batch, `[n, d]`, any float; maths runs in float32.
      documents: the other text of each pair, `[n, d]`.
      labels: 1 for pairs that belong together, 0 for others, `[n]`; pairs of any other label count as 0.
      margin: how far apart is far enough; a distance, > 0.
      distance: `"cosine"`, `"euclidean"` or `"manhattan"`.

    Returns:
      Value of each pair, `[n]`, >= 0; their sum is the loss.

    Source:
      Reimers and Gurevych 2019, the code of sentence-transformers; there is no paper.
      Parity: sentence-transformers OnlineContrastiveLoss(margin=margin) with each SiameseDistanceMetric.

    Example:
      >>> q, d = jnp.eye(3), jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
      >>> online_contrastive(q, d, jnp.array([1.0, 0.0, 0.0])).round(3).tolist()
      [0.086, 0.25, 0.0]
    """
    apart = pair_distances(queries, documents, distance)
    fixed, alike, other = lax.stop_gradient(apart), labels == 1, labels == 0
    farthest = jnp.where(alike.any(), fixed.max(where=alike, initial=-jnp.inf), _mean(fixed, other))
    nearest = jnp.where(other.any(), fixed.min(where=other, initial=jnp.inf), _mean(fixed, alike))
    positive = jnp.where(alike & (fixed > nearest), jnp.square(apart), 0.0)
    return positive + jnp.where(other & (fixed < farthest), jnp.square(jax.nn.relu(margin - apart)), 0.0)


def _mean(x: Float[Array, " n"], chosen: Array) -> Float[Array, ""]:
    """Mean of the chosen numbers; 0 of none. Of equal numbers it is that number, not one that rounding moved."""
    low = x.min(where=chosen, initial=jnp.inf)
    low = jnp.where(jnp.isfinite(low), low, 0.0)
    return low + jnp.where(chosen, x - low, 0.0).sum() / jnp.maximum(float32(chosen).sum(), 1.0)
