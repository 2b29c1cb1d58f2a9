"""Triplets mined within a batch: rows of one class are positives of each other, other rows are negatives."""

__all__ = ["BatchTriplet", "batch_triplet"]

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, PositiveFloat, model_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import LossConfig
from jdistill.losses.blocks import SINGLE_DEVICE, over_rows
from jdistill.losses.labels.distances import check_margin
from jdistill.losses.labels.row_labels import class_labels
from jdistill.losses.maths import float32, normalise, root
from jdistill.papers import Papers
from jdistill.types import CandidateExchange, LossInputs

Mining = Literal["hard", "semi_hard", "all"]
BatchDistance = Literal["euclidean", "squared_euclidean", "cosine"]
Margin = PositiveFloat | Literal["soft"]

ELEMENTS = 2**22
"""Maximum number of elements of intermediate arrays; affects memory and speed only."""


class BatchTriplet(LossConfig):
    """Triplet loss on a batch: texts of a class nearer to each other than to texts of other classes, by a margin."""

    kind: Literal["batch_triplet"] = "batch_triplet"
    papers = ("arXiv:1703.07737",)
    mining: Mining = "hard"
    """Triplets used: per text, the farthest of its class and the nearest of another (hard); per pair of a class, the
    nearest of another class that is farther than the pair (semi_hard); or every triplet with a loss above 0 (all)."""
    distance: BatchDistance = "euclidean"
    """Euclidean distance, its square, or one minus the cosine."""
    margin: Margin = Field(
        default=5.0,
        description="The loss is 0 if the text of another class is farther by at least this distance. 5 suits vectors "
        "that are not normalised; with cosine it must be below 2, such as 0.2. `soft` (mining hard only) uses "
        "log(1 + exp(.)) instead of a margin.",
    )

    @model_validator(mode="after")
    def _options_go_together(self) -> "BatchTriplet":
        if self.margin == "soft":
            if self.mining != "hard":
                raise ValueError(f"margin 'soft' goes with mining 'hard' only, not '{self.mining}'. Give a number.")
        else:
            check_margin(self.distance, self.margin)
        return self

    @override
    def cited(self) -> Papers:
        """Also FaceNet for semi-hard mining."""
        return (*self.papers, *(["arXiv:1503.03832"] if self.mining == "semi_hard" else []))

    @override
    def check_labels(self, rows: Mapping[str, int]) -> None:
        """Raise unless there are several classes, and several rows of a class."""
        if not rows:
            class_labels(None, self.kind)
        present = [count for count in rows.values() if count]
        if len(present) < 2 or max(present) < 2:
            found = "all rows have one label" if len(present) < 2 else "no label occurs twice"
            raise UserError(
                f"{found}, so there are no triplets: expected rows of several classes, and several rows of a class. "
                "Name another column under data.<source>.columns.label."
            )

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row, for its query, or for its text if rows are plain texts; other texts are ignored.

        Raises:
          UserError: if the rows have no label.
        """
        side, everyone = inputs.student, class_labels(inputs.all_labels, self.kind)
        mine, everyones = side.queries, side.all_queries
        if mine is None or everyones is None:
            # all_documents begins with the rows' own texts; hard negatives follow.
            mine, everyones = side.documents, side.all_documents[: len(everyone)]
        return batch_triplet(
            mine,
            class_labels(inputs.labels, self.kind),
            inputs.rows,
            everyones,
            everyone,
            mining=self.mining,
            distance=self.distance,
            margin=self.margin,
            sweep=inputs.sweep,
        )


def batch_triplet(
    vectors: Float[Array, "b d"],
    labels: Int[Array, " b"],
    rows: Int[Array, " b"],
    all_vectors: Float[Array, "n d"],
    all_labels: Int[Array, " n"],
    *,
    mining: Mining = "hard",
    distance: BatchDistance = "euclidean",
    margin: Margin = 5.0,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, " b"]:
    """Keep texts of a class nearer to each other than to texts of other classes.

    For texts with class labels instead of pairs: intents, topics, products. A batch must contain several texts of a
    class: with random batches and c classes of equal size, a batch of n rows has about n / c of each.
        triplet_apn = relu(dist(a, p) - dist(a, n) + margin)   of a and p of one class, n of another
    `hard` is the mean over anchors a with p the farthest and n the nearest; `semi_hard` the mean over pairs (a, p) with
    n the nearest that is farther than p, or the farthest if none is; `all` the mean over the triplets that are above 0.

    Args:
      vectors: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      labels: their classes, `[b]`.
      rows: index of each of these rows in the whole batch, `[b]`.
      all_vectors: of the whole batch, `[n, d]`.
      all_labels: their classes, `[n]`.
      mining: which triplets are used.
      distance: between two vectors.
      margin: > 0; or `"soft"` for log(1 + exp(dist(a, p) - dist(a, n))), hard only.
      sweep: sums over the triplets of all devices.

    Returns:
      Value of each row, `[b]`, >= 0; the mean over the batch is the mean defined above. As in sentence-transformers,
      in `hard` an anchor alone in its class has a farthest positive at distance 0, and one without any other class a
      nearest negative at its largest distance.

    Raises:
      ValueError: if the margin is soft and mining is not hard.

    Source:
      Hermans et al. 2017, arXiv:1703.07737, equations 5 and 6 and section 2, soft margin; `semi_hard`: Schroff et al.
      2015, arXiv:1503.03832, section 3.2.
      Parity: sentence-transformers BatchHardTripletLoss, BatchHardSoftMarginTripletLoss, BatchSemiHardTripletLoss and
      BatchAllTripletLoss, each with both distances.

    Example:
      >>> x, labels = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1])
      >>> batch_triplet(x, labels, jnp.arange(3), x, labels, margin=1.0).tolist()
      [0.0, 0.0, 0.0]
    """
    if margin == "soft" and mining != "hard":
        raise ValueError(f"margin 'soft' goes with mining 'hard' only, not '{mining}'")
    n, width = all_vectors.shape
    candidates = normalise(all_vectors) if distance == "cosine" else float32(all_vectors)

    def of_rows(some: tuple[Array, Array, Array]) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
        x, classes, places = some
        same = classes[:, None] == all_labels[None]
        own = places[:, None] == jnp.arange(n)[None]
        compared = RowDistances(_distances(x, candidates, distance), same & ~own, ~same)
        if mining == "hard" or margin == "soft":
            return _hard(compared, margin), jnp.zeros(len(x))  # already a mean over rows, so counts are not used
        return (_semi_hard if mining == "semi_hard" else _all)(compared, margin)

    # The largest array of a block is that of differences in `_distances`, [block, n, width].
    block = max(ELEMENTS // (n * width), 1)
    mine = normalise(vectors) if distance == "cosine" else float32(vectors)
    values, counts = over_rows(of_rows, (mine, labels, rows), block=block)
    if mining == "hard":
        return values
    # A mean over pairs or triplets, not over rows: each row's sum over the mean count of a row. The mean of that over
    # the rows of the batch is sum of sums / sum of counts.
    per_row = sweep.mean(lax.stop_gradient(counts)[:, None])[0]
    return jnp.where(per_row > 0, values / jnp.where(per_row > 0, per_row, 1.0), 0.0)


class RowDistances(NamedTuple):
    """Some rows beside all rows of the batch."""

    distances: Float[Array, "r n"]
    positive: Bool[Array, "r n"]
    """Another row of the same class."""
    negative: Bool[Array, "r n"]
    """A row of another class."""


def _distances(a: Float[Array, "r d"], b: Float[Array, "n d"], distance: BatchDistance) -> Float[Array, "r n"]:
    """Distances from differences; |a|^2 + |b|^2 - 2 a.b would cancel for small distances, and not give exact zeros."""
    squares = jnp.square(a[:, None] - b[None]).sum(axis=-1)
    if distance == "cosine":  # |a - b|^2 / 2 for unit vectors, and 1 if one is zero
        return (2 - _squared_norm(a)[:, None] - _squared_norm(b)[None]) / 2 + squares / 2
    return root(squares) if distance == "euclidean" else squares


def _squared_norm(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jnp.square(x).sum(axis=-1)


def _picked(x: Float[Array, "r n"], index: Callable[..., Array]) -> Float[Array, "r 1"]:
    """One element of each row; of ties the first gets the whole gradient, as in torch."""
    return jnp.take_along_axis(x, index(lax.stop_gradient(x), axis=1, keepdims=True), axis=1)


def _hard(compared: RowDistances, margin: Margin) -> Float[Array, " r"]:
    x = compared.distances
    farthest = _picked(jnp.where(compared.positive, x, 0.0), jnp.argmax)
    # All but negatives are raised by the row's largest distance, so that none is below a negative. In a row without
    # negatives the smallest is then the row itself, at 0 plus that distance. As in sentence-transformers.
    nearest = _picked(jnp.where(compared.negative, x, x + _picked(x, jnp.argmax)), jnp.argmin)
    excess = (farthest - nearest)[:, 0]
    return jax.nn.softplus(excess) if margin == "soft" else jax.nn.relu(excess + margin)


def _semi_hard(compared: RowDistances, margin: float) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    """Sum over each row's pairs, and number of pairs."""
    x = compared.distances
    fixed = lax.stop_gradient(x)
    # For every pair (a, p) at once: sort the negatives of a by distance; the place of the first one strictly farther
    # than p follows by binary search. From the number of negatives on there is only inf: none is farther.
    negatives = jnp.where(compared.negative, fixed, jnp.inf)
    order = jnp.argsort(negatives, axis=1)
    place = jax.vmap(lambda row, pairs: jnp.searchsorted(row, pairs, side="right"))(
        jnp.take_along_axis(negatives, order, axis=1), fixed
    )
    farther = place < compared.negative.sum(axis=1, keepdims=True)
    nearest = jnp.take_along_axis(order, jnp.where(farther, place, 0), axis=1)
    # In that case the farthest negative. Relative to the lowest distance all are >= 0, so that the 0 which stands for
    # the others does not exceed a negative; the gradients of `lowest` cancel.
    lowest = _picked(x, jnp.argmin)
    farthest = _picked(jnp.where(compared.negative, x - lowest, 0.0), jnp.argmax) + lowest
    chosen = jnp.where(farther, jnp.take_along_axis(x, nearest, axis=1), farthest)
    values = jax.nn.relu(x - chosen + margin)
    return jnp.where(compared.positive, values, 0.0).sum(axis=1), float32(compared.positive.sum(axis=1))


def _all(compared: RowDistances, margin: float) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    """Sum over each row's triplets, and number of those above 0."""
    x = compared.distances

    def of_positives(some: tuple[Float[Array, "p r"], Bool[Array, "p r"]]) -> tuple[Array, Array]:
        near, positive = some
        triplets = positive[..., None] & compared.negative[None]
        values = jnp.where(triplets, jax.nn.relu(near[..., None] - x[None] + margin), 0.0)
        return values.sum(axis=2), float32((values > 0).sum(axis=2))

    # over_rows cuts the first axis, so transposed: a block of positives p, whose triplets are [p, r, n].
    block = max(ELEMENTS // 4 // x.size, 1)
    sums, counts = over_rows(of_positives, (x.T, compared.positive.T), block=block)
    return sums.sum(axis=0), counts.sum(axis=0)
