"""Spread vectors over the sphere like random ones (global orthogonal regularisation).

Sums over all pairs of texts follow from the sum of the vectors and from their `d x d` Gram matrix, so no score matrix
is formed if the batch is larger than the vectors' width.
"""

__all__ = ["SpreadOut", "spread_out"]

from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.losses.base import LossConfig
from jdistill.losses.maths import matmul, normalise
from jdistill.papers import Papers
from jdistill.types import LossInputs

Aggregation = Literal["mean", "sum"]
Weight = Annotated[float, Field(ge=0)]


class SpreadOut(LossConfig):
    """Penalty on the mean and mean square of the cosines between different rows' texts, relative to random vectors."""

    kind: Literal["spread_out"] = "spread_out"
    papers = ("arXiv:1708.06320",)
    mean_weight: Weight = 1.0
    """Factor of the squared mean cosine, which is large if all vectors point the same way; 0 disables it."""
    second_moment_weight: Weight = 1.0
    """Factor of the excess of the mean squared cosine over 1 / width, which is large if vectors form clusters or use
    few dimensions; 0 disables it."""
    aggregation: Aggregation = "mean"
    """Mean or sum over the columns (queries, documents, each hard negative), each of which is computed separately."""

    @model_validator(mode="after")
    def _does_something(self) -> "SpreadOut":
        if not self.mean_weight and not self.second_moment_weight:
            raise ValueError("mean_weight and second_moment_weight are both 0, so there is no loss. Raise one of them.")
        return self

    @override
    def cited(self) -> Papers:
        """Also EmbeddingGemma, which uses the second moment alone."""
        return (*self.papers, *(["arXiv:2509.20354"] if self.mean_weight == 0 else []))

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """The loss of the whole batch, repeated for every row."""
        side = inputs.student
        columns = jnp.split(side.all_documents, 1 + side.negatives.shape[1])
        loss = spread_out(
            columns if side.all_queries is None else [side.all_queries, *columns],
            mean_weight=self.mean_weight,
            second_moment_weight=self.second_moment_weight,
            aggregation=self.aggregation,
        )
        return jnp.broadcast_to(loss, inputs.rows.shape)


def spread_out(
    columns: Sequence[Float[Array, "n d"]],
    *,
    mean_weight: float = 1.0,
    second_moment_weight: float = 1.0,
    aggregation: Aggregation = "mean",
) -> Float[Array, ""]:
    """Make unrelated texts as close to orthogonal as random vectors.

    A regulariser to combine with another loss: vectors then use all dimensions and quantise better. For each column,
    with S_ij the cosines between its texts and means over all i != j:
        loss = mean_weight mean(S)^2 + second_moment_weight relu(mean(S^2) - 1 / d)

    Args:
      columns: vectors of the whole batch's queries, of its documents, of each column of hard negatives, `[n, d]` each,
        any float; maths runs in float32.
      mean_weight: factor of the first part, >= 0.
      second_moment_weight: factor of the second part, >= 0.
      aggregation: `"mean"` over columns, or their `"sum"`.

    Returns:
      One number for the batch, >= 0; 0 for a batch of one.

    Source:
      Zhang et al. 2017, arXiv:1708.06320, global orthogonal regularisation, over all pairs of a column in place of
      sampled ones. EmbeddingGemma, arXiv:2509.20354, uses mean_weight 0 and the sum.
      Parity: sentence-transformers GlobalOrthogonalRegularizationLoss, the sum of its two parts.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> print(spread_out([x]), spread_out([x, x], mean_weight=0.0, aggregation="sum"))
      1.5 1.0
    """
    of_columns = []
    for column in columns:
        mean, excess = moments(column)
        of_columns.append(mean_weight * jnp.square(mean) + second_moment_weight * jax.nn.relu(excess))
    total = jnp.stack(of_columns)
    return total.mean() if aggregation == "mean" else total.sum()


def moments(texts: Float[Array, "n d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cosine of two different texts, and mean squared cosine minus `1 / d`; 0 and `-1 / d` for a single text."""
    unit = normalise(texts)
    # If all vectors are equal, their exact gradient is 0 and the computed one would be rounding error: block it.
    unit = jnp.where((unit == unit[:1]).all(), lax.stop_gradient(unit), unit)
    return _by_texts(unit) if unit.shape[0] <= unit.shape[1] else _by_dimensions(unit)


def _by_texts(unit: Float[Array, "n d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The moments from the matrix of cosines."""
    n, d = unit.shape
    cosines = jnp.where(jnp.eye(n, dtype=bool), 0.0, matmul(unit, unit.T))
    pairs = max(n * (n - 1), 1)
    return cosines.sum() / pairs, jnp.square(cosines).sum() / pairs - 1 / d


def _by_dimensions(unit: Float[Array, "n d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The moments from the sum of the vectors and their Gram matrix G = U^T U.

    With u_i of norm 1, or 0 for a zero vector, and L = sum |u_i|^2:
        sum_{i != j} S_ij   = |sum u_i|^2 - L
        sum_{i != j} S_ij^2 = |G|^2 - sum |u_i|^4 = |G - (n / d) I|^2 + (2 n L - n^2) / d - sum |u_i|^4
    If vectors are spread out, as the loss intends, |G|^2 is close to n^2 / d, and subtracting 1 / d from the mean would
    cancel. Subtracting n / d from the diagonal of G first avoids this.
    """
    n, d = unit.shape
    squares = jnp.square(unit).sum(axis=1)
    pairs = n * (n - 1)
    total = jnp.square(unit.sum(axis=0)).sum() - squares.sum()
    from_even = matmul(unit.T, unit) - n / d * jnp.eye(d)
    # With L = n + missing, and 1 / d subtracted for each of the n (n - 1) pairs:
    #     (2 n L - n^2 - n (n - 1)) / d = (2 n missing + n) / d
    missing = (squares - 1).sum()
    excess = jnp.square(from_even).sum() + (2 * n * missing + n) / d - jnp.square(squares).sum()
    return total / pairs, excess / pairs
