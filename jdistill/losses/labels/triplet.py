"""Triplet loss: a query nearer to its document than to its hard negatives, by a margin."""

__all__ = ["Triplet", "triplet"]

from typing import Literal

import jax
from jaxtyping import Array, Float
from pydantic import Field, PositiveFloat, model_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import LossConfig, Needs, queries_of
from jdistill.losses.labels.distances import DISTANCES, PairDistance, check_margin
from jdistill.types import LossInputs


class Triplet(LossConfig):
    """Hinge loss on each hard negative being farther from the query than the document, by a margin."""

    kind: Literal["triplet"] = "triplet"
    papers = ("arXiv:1503.03832",)
    distance: PairDistance = "euclidean"
    """Euclidean distance, one minus the cosine, or the sum of absolute differences (manhattan)."""
    margin: PositiveFloat = Field(
        default=5.0,
        description="The loss is 0 if the negative is farther than the document by at least this distance. 5 suits "
        "vectors that are not normalised; with cosine it must be below 2, such as 0.2.",
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> "Triplet":
        check_margin(self.distance, self.margin)
        return self

    @override
    def needs(self) -> Needs:
        return Needs(batch=False)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row, the mean over its hard negatives.

        Raises:
          UserError: if the rows are plain texts or have no hard negatives.
        """
        side = inputs.student
        queries = queries_of(side.queries, self.kind)
        if not side.negatives.shape[1]:
            raise UserError(
                "triplet compares a query's document with its hard negatives, but these rows have none. Name their "
                "columns under data.<source>.columns.negatives, or use a loss with in-batch "
                "negatives, such as info_nce."
            )
        return triplet(queries, side.documents, side.negatives, margin=self.margin, distance=self.distance)


def triplet(
    queries: Float[Array, "b d"],
    documents: Float[Array, "b d"],
    negatives: Float[Array, "b k d"],
    *,
    margin: float = 5.0,
    distance: PairDistance = "euclidean",
) -> Float[Array, " b"]:
    """Keep each hard negative farther from the query than the document is.

    Unlike in `info_nce`, a negative that is far enough has no gradient, and nothing depends on other rows.
        loss_i = mean_k relu(dist(q_i, d_i) - dist(q_i, n_ik) + margin)

    Args:
      queries: of these rows, `[b, d]`, any float; maths runs in float32.
      documents: the document of each query, `[b, d]`.
      negatives: hard negatives of each query, `[b, k, d]`, `k` at least 1.
      margin: required difference of the two distances, > 0.
      distance: `"euclidean"`, `"cosine"` for one minus the cosine, in [0, 2], or `"manhattan"`.

    Returns:
      Value of each row, `[b]`, >= 0.

    Source:
      Schroff et al. 2015, arXiv:1503.03832, section 3.1, with distances instead of squared distances.
      Parity: sentence-transformers TripletLoss(triplet_margin=margin) with each TripletDistanceMetric, the mean over
      each column of negatives.

    Example:
      >>> q, d, n = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 0.0]]), jnp.array([[[0.0, 4.0], [0.0, 9.0]]])
      >>> triplet(q, d, n).tolist()
      [2.0]
    """
    measure = DISTANCES[distance]
    near, far = measure(queries, documents), measure(queries[:, None], negatives)
    return jax.nn.relu(near[:, None] - far + margin).mean(axis=1)
