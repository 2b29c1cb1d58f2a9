"""Sparsity regularisers, for fast search in an inverted index (`flops`, `l1`).

For students whose vectors have one element per vocabulary entry. The weight of such a term increases slowly at first:
with the full weight from the start, all elements would become 0 before any has learned something.
"""

__all__ = ["L1", "Flops", "flops", "l1"]

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import NonNegativeInt
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.maths import absolute, float32
from jdistill.losses.schedule import Ramp, Share, at
from jdistill.papers import Papers
from jdistill.types import LossInputs


class Sparsity(LossConfig):
    """Base of the penalties on the activations of the student's vectors."""

    texts: Literal["queries", "documents", "all"] = "documents"
    """Texts to penalise: queries, documents with their hard negatives, or all as one column. Commonly queries and
    documents have one term each, with different weights."""
    threshold: NonNegativeInt | None = None
    """Vectors with at most this many non-zero elements are sparse enough and count as 0; null: no threshold."""
    warmup: Share = 1 / 3
    """Fraction of training over which the weight increases quadratically from 0; 0: full weight from the start. The
    logged value is without any weight."""

    @override
    def cited(self) -> Papers:
        """Also the paper on thresholds, if there is one."""
        return (*self.papers, *(["arXiv:2504.14839"] if self.threshold is not None else []))

    @override
    def weight_at(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """`weight`, times the warmup factor."""
        weight = super().weight_at(progress)
        if not self.warmup:
            return weight
        return weight * at(Ramp(start=0, stop=1, end=self.warmup, shape="quadratic"), progress)

    def of_rows(self, inputs: LossInputs) -> Float[Array, "b t d"]:
        """The vectors of `texts` in this shard's rows.

        Raises:
          UserError: if `texts` is queries and the rows are plain texts.
        """
        side = inputs.student
        documents = jnp.concatenate([side.documents[:, None], side.negatives], axis=1)
        if self.texts == "documents" or (self.texts == "all" and side.queries is None):
            return documents
        if side.queries is None:
            raise UserError(
                f"{self.kind} with texts 'queries' has no input: these rows are plain texts without queries. "
                "Set texts to 'documents', or name a query column under data.<source>.columns."
            )
        queries = side.queries[:, None]
        return queries if self.texts == "queries" else jnp.concatenate([queries, documents], axis=1)

    def of_batch(self, inputs: LossInputs) -> Float[Array, "m d"]:
        """The vectors of `texts` in the whole batch."""
        side = inputs.student
        columns = {
            "queries": [side.all_queries],
            "documents": [side.all_documents],
            "all": [side.all_queries, side.all_documents],
        }[self.texts]
        return jnp.concatenate([column for column in columns if column is not None])


class Flops(Sparsity):
    """Sum of squared mean activations: the expected cost of comparing two texts."""

    kind: Literal["flops"] = "flops"
    papers = ("arXiv:2004.05665",)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Contribution of each row to the batch's value."""
        return flops(self.of_rows(inputs), self.of_batch(inputs), threshold=self.threshold)


class L1(Sparsity):
    """Sum of activations: penalises every element equally, however common it is."""

    kind: Literal["l1"] = "l1"
    papers = ("arXiv:2107.05720",)

    @override
    def needs(self) -> Needs:
        return Needs(batch=False)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        return l1(self.of_rows(inputs), threshold=self.threshold)


def flops(
    rows: Float[Array, "b t d"], batch: Float[Array, "m d"], *, threshold: int | None = None
) -> Float[Array, " b"]:
    """Penalise most the elements that are active in most texts.

    An element costs a multiplication only if it is non-zero in both texts, so the mean number of multiplications per
    comparison is the sum of squared frequencies. With activations in place of frequencies it is differentiable:
        loss = sum_v a_v^2,   a_v = mean_j |e_jv| over all texts j of the batch
    A row's value is `sum_v a_v mean_t |e_tv|` over its own texts; the mean over rows is the loss.

    Args:
      rows: the texts of each row, `[b, t, d]`, any float; maths runs in float32.
      batch: the same texts of the whole batch, `[m, d]`, in any order.
      threshold: vectors with at most this many active elements count as 0, but are included in the mean; None: no
        threshold.

    Returns:
      Contribution of each row to the loss, `[b]`, >= 0.

    Source:
      Paria et al. 2020, arXiv:2004.05665; the threshold is from arXiv:2504.14839.
      Parity: sentence-transformers FlopsLoss(threshold), within SpladeLoss, for vectors without negative elements,
      which it is meant for; for others it squares the mean, not the mean absolute value.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [1.0, 3.0]])
      >>> print(flops(x[:, None], x).mean(), flops(x[:, None], x, threshold=1).mean())
      3.25 2.5
    """
    # jnp.abs on purpose: its derivative at 0 is 1, as it is elsewhere for vectors without negative elements.
    mean = jnp.abs(_without_sparse(batch, threshold)).mean(axis=0)
    return jnp.sum(jnp.abs(_without_sparse(rows, threshold)).mean(axis=1) * mean[None], axis=-1)


def l1(rows: Float[Array, "b t d"], *, threshold: int | None = None) -> Float[Array, " b"]:
    """Penalise all active elements equally.

        loss_i = mean_t sum_v |e_itv|

    Args:
      rows: the texts of each row, `[b, t, d]`, any float; maths runs in float32.
      threshold: vectors with at most this many active elements count as 0, but are included in the mean; None: no
        threshold.

    Returns:
      Value of each row, `[b]`, >= 0.

    Source:
      Formal et al. 2021, arXiv:2107.05720, as the alternative to `flops`.

    Example:
      >>> l1(jnp.array([[[1.0, 0.0], [1.0, -3.0]]])).tolist()
      [2.5]
    """
    return absolute(_without_sparse(rows, threshold)).sum(axis=-1).mean(axis=1)


def _without_sparse(texts: Float[Array, "*b d"], threshold: int | None) -> Float[Array, "*b d"]:
    """The vectors in float32; those with at most `threshold` non-zero elements become zero vectors."""
    if threshold is None:
        return float32(texts)
    active = jnp.sum(texts != 0, axis=-1, keepdims=True)
    return jnp.where(active > threshold, float32(texts), 0.0)
