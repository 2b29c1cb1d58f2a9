"""Keep vectors sparse, so that an inverted index can search them fast (`flops`, `l1`).

For students whose vectors have an element per word. The weight of such a term rises slowly at first: pressed from the
start, all elements would vanish before any has learned what it is for.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import NonNegativeInt

from jdistill.config import UserError
from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.maths import absolute, float32
from jdistill.losses.schedule import Ramp, Share, at
from jdistill.types import View


class Sparsity(LossConfig):
    """A measure of how active the elements of some of the student's vectors are."""

    texts: Literal["queries", "documents", "all"] = "documents"
    """Whose vectors: queries, documents with their hard negatives, or all as if they were one column. Queries and
    documents commonly have a term each, of different weights."""
    threshold: NonNegativeInt | None = None
    """Vectors with no more elements than this that are not zero are sparse enough and count as zero; null: none is."""
    warmup: Share = 1 / 3
    """Share of the training over which the weight rises from 0, with the square of the way; 0: full from the start.
    What is logged is the value without any weight."""

    def weight_at(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """`weight`, times how far the warmup has come."""
        weight = super().weight_at(progress)
        if not self.warmup:
            return weight
        return weight * at(Ramp(start=0, stop=1, end=self.warmup, shape="quadratic"), progress)

    def of_rows(self, view: View) -> Float[Array, "b t d"]:
        """The chosen texts of this shard's rows.

        Raises:
          UserError: if they are queries and the rows are plain texts.
        """
        side = view.student
        documents = jnp.concatenate([side.documents[:, None], side.negatives], axis=1)
        if self.texts == "documents" or (self.texts == "all" and side.queries is None):
            return documents
        if side.queries is None:
            raise UserError(
                f"{self.kind} with texts 'queries' has nothing to act on: these rows are plain texts without queries. "
                "Set texts to 'documents', or name a query column under data.<source>.columns."
            )
        queries = side.queries[:, None]
        return queries if self.texts == "queries" else jnp.concatenate([queries, documents], axis=1)

    def of_batch(self, view: View) -> Float[Array, "m d"]:
        """The chosen texts of the whole batch."""
        side = view.student
        columns = {
            "queries": [side.all_queries],
            "documents": [side.all_documents],
            "all": [side.all_queries, side.all_documents],
        }[self.texts]
        return jnp.concatenate([column for column in columns if column is not None])


class Flops(Sparsity):
    """Sum of the squares of the elements' mean activity: what it costs to compare one text with another."""

    kind: Literal["flops"] = "flops"

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Share of each row in the value of the batch."""
        return flops(self.of_rows(view), self.of_batch(view), threshold=self.threshold)


class L1(Sparsity):
    """Sum of the elements' activity: pulls at every element alike, however common it is."""

    kind: Literal["l1"] = "l1"

    def needs(self) -> Needs:
        """Nothing but the row."""
        return Needs(batch=False)

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Value of each row, the mean over its texts."""
        return l1(self.of_rows(view), threshold=self.threshold)


def flops(
    rows: Float[Array, "b t d"], batch: Float[Array, "m d"], *, threshold: int | None = None
) -> Float[Array, " b"]:
    """Press most on the elements that are active in most texts.

    Two texts meet in an element only if both have it, so the mean number of multiplications per comparison is the sum
    of squared frequencies. With activity in place of frequency it has a gradient:
        loss = sum_v a_v^2,   a_v = mean_j |e_jv| over all texts j of the batch
    A row's value is `sum_v a_v mean_t |e_tv|` over its own texts; the mean over rows is the loss.

    Args:
      rows: the texts of each row, `[b, t, d]`, any float; maths runs in float32.
      batch: the same texts of the whole batch, `[m, d]`, in any order.
      threshold: vectors with no more active elements count as zero, but they do count in the mean; None: none does.

    Returns:
      Share of each row in the loss, `[b]`, >= 0.

    Source:
      Paria et al. 2020, arXiv:2004.05665; the threshold is from arXiv:2504.14839.
      Parity: sentence-transformers FlopsLoss(threshold), within SpladeLoss, for vectors without negative elements,
      which is all it is for: of others it squares the mean, not the mean size.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [1.0, 3.0]])
      >>> print(flops(x[:, None], x).mean(), flops(x[:, None], x, threshold=1).mean())
      3.25 2.5
    """
    # The derivative of jnp.abs at 0 is 1, as that of a vector without negative elements is everywhere.
    mean = jnp.abs(_without_sparse(batch, threshold)).mean(axis=0)
    return jnp.sum(jnp.abs(_without_sparse(rows, threshold)).mean(axis=1) * mean[None], axis=-1)


def l1(rows: Float[Array, "b t d"], *, threshold: int | None = None) -> Float[Array, " b"]:
    """Press on all active elements alike.

        loss_i = mean_t sum_v |e_itv|

    Args:
      rows: the texts of each row, `[b, t, d]`, any float; maths runs in float32.
      threshold: vectors with no more active elements count as zero, but they do count in the mean; None: none does.

    Returns:
      Value of each row, `[b]`, >= 0.

    Source:
      Formal et al. 2021, arXiv:2107.05720, where it is the alternative to `flops`.

    Example:
      >>> l1(jnp.array([[[1.0, 0.0], [1.0, -3.0]]])).tolist()
      [2.5]
    """
    return absolute(_without_sparse(rows, threshold)).sum(axis=-1).mean(axis=1)


def _without_sparse(texts: Float[Array, "*b d"], threshold: int | None) -> Float[Array, "*b d"]:
    """The vectors in float32, those with no more than `threshold` elements that are not zero made zero vectors."""
    if threshold is None:
        return float32(texts)
    active = jnp.sum(texts != 0, axis=-1, keepdims=True)
    return jnp.where(active > threshold, float32(texts), 0.0)
