"""Contrastive losses: matching pairs are pulled together, others pushed at least a margin apart."""

__all__ = ["Contrastive", "OnlineContrastive", "contrastive", "online_contrastive"]

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from pydantic import Field, PositiveFloat, model_validator
from typing_extensions import override

from jdistill.losses.base import LossConfig, Needs, queries_of
from jdistill.losses.labels.distances import PairDistance, check_margin, pair_distances
from jdistill.losses.labels.row_labels import pair_labels
from jdistill.losses.maths import float32
from jdistill.types import LossInputs, PairEmbeddings


class _PairLoss(LossConfig):
    """A loss on pairs with score 1 if they match, 0 if not."""

    distance: PairDistance = "cosine"
    """One minus the cosine, Euclidean distance, or the sum of absolute differences (manhattan)."""
    margin: PositiveFloat = Field(default=0.5, description="Distance from which on pairs of label 0 have loss 0.")

    @model_validator(mode="after")
    def _can_be_reached(self) -> "_PairLoss":
        check_margin(self.distance, self.margin)
        return self

    @override
    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Report scores other than 0 and 1."""
        if scores is None or bool(((scores == 0) | (scores == 1)).all()):
            return []
        return [
            f"scores of the first batch are between {float(scores.min()):g} and {float(scores.max()):g}, expected 0 "
            "for pairs that do not match and 1 for pairs that do. Use cosent for pairs scored on a scale."
        ]


class Contrastive(_PairLoss):
    """Squared distance of pairs of label 1, and squared shortfall from the margin of pairs of label 0."""

    kind: Literal["contrastive"] = "contrastive"
    papers = ("doi:10.1109/CVPR.2006.100",)

    @override
    def needs(self) -> Needs:
        return Needs(batch=False)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts, or have not one score each.
        """
        queries, labels = queries_of(inputs.student.queries, self.kind), pair_labels(inputs.scores, self.kind)
        return contrastive(queries, inputs.student.documents, labels, margin=self.margin, distance=self.distance)


class OnlineContrastive(_PairLoss):
    """The contrastive loss on a batch's hard pairs only: those that some pair of the other label contradicts."""

    kind: Literal["online_contrastive"] = "online_contrastive"
    papers = ()

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row, times the batch size, since the loss is a sum; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts, or have not one score each.
        """
        queries = queries_of(inputs.student.all_queries, self.kind)
        labels = pair_labels(inputs.all_scores, self.kind)
        documents = inputs.student.all_documents[: len(labels)]
        values = online_contrastive(queries, documents, labels, margin=self.margin, distance=self.distance)
        return len(labels) * values[inputs.rows]


def contrastive(
    queries: Float[Array, "b d"],
    documents: Float[Array, "b d"],
    labels: Float[Array, " b"],
    *,
    margin: float = 0.5,
    distance: PairDistance = "cosine",
) -> Float[Array, " b"]:
    """Pull pairs of label 1 together, and push pairs of label 0 apart until they are a margin away.

    For pairs with binary labels, such as duplicate questions.
        loss_i = (y_i dist(q_i, d_i)^2 + (1 - y_i) relu(margin - dist(q_i, d_i))^2) / 2

    Args:
      queries: of these rows, `[b, d]`, any float; maths runs in float32.
      documents: the other text of each pair, `[b, d]`.
      labels: 1 for matching pairs, 0 for others, `[b]`; a number between weights both parts.
      margin: distance from which on pairs of label 0 have loss 0; > 0.
      distance: `"cosine"`, `"euclidean"` or `"manhattan"`.

    Returns:
      Value of each pair, `[b]`, >= 0.

    Source:
      Hadsell et al. 2006, doi:10.1109/CVPR.2006.100, equation 4, whose Y is 1 for pairs that do not match.
      Parity: sentence-transformers ContrastiveLoss(margin=margin) with each SiameseDistanceMetric.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> contrastive(x, x, jnp.array([1.0, 0.0])).tolist()
      [0.0, 0.125]
    """
    distances, labels = pair_distances(queries, documents, distance), float32(labels)
    return 0.5 * (labels * jnp.square(distances) + (1 - labels) * jnp.square(jax.nn.relu(margin - distances)))


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
    nearer than the farthest pair of label 1. If a batch has pairs of one label only, each is compared with their mean
    distance.
        loss_i = dist(q_i, d_i)^2 of a hard pair of label 1, relu(margin - dist(q_i, d_i))^2 of one of label 0

    Args:
      queries: of the whole batch, `[n, d]`, any float; maths runs in float32.
      documents: the other text of each pair, `[n, d]`.
      labels: 1 for matching pairs, 0 for others, `[n]`; pairs of any other label have loss 0.
      margin: distance from which on pairs of label 0 have loss 0; > 0.
      distance: `"cosine"`, `"euclidean"` or `"manhattan"`.

    Returns:
      Value of each pair, `[n]`, >= 0; their sum is the loss.

    Source:
      Reimers and Gurevych 2019, the code of sentence-transformers; there is no paper.
      Parity: sentence-transformers OnlineContrastiveLoss(margin=margin) with each SiameseDistanceMetric.

    Example:
      >>> q, d = jnp.eye(3), jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
      >>> print(online_contrastive(q, d, jnp.array([1.0, 0.0, 0.0])).round(3))
      [0.086 0.25  0.   ]
    """
    distances = pair_distances(queries, documents, distance)
    # Which pairs are hard is decided without gradient.
    fixed, alike, other = lax.stop_gradient(distances), labels == 1, labels == 0
    farthest = jnp.where(alike.any(), fixed.max(where=alike, initial=-jnp.inf), _mean(fixed, other))
    nearest = jnp.where(other.any(), fixed.min(where=other, initial=jnp.inf), _mean(fixed, alike))
    positive = jnp.where(alike & (fixed > nearest), jnp.square(distances), 0.0)
    return positive + jnp.where(other & (fixed < farthest), jnp.square(jax.nn.relu(margin - distances)), 0.0)


def _mean(x: Float[Array, " n"], chosen: Array) -> Float[Array, ""]:
    """Mean of the chosen numbers, 0 if there are none. Of equal numbers it is exactly that number, without rounding."""
    low = x.min(where=chosen, initial=jnp.inf)
    low = jnp.where(jnp.isfinite(low), low, 0.0)
    return low + jnp.where(chosen, x - low, 0.0).sum() / jnp.maximum(float32(chosen).sum(), 1.0)
