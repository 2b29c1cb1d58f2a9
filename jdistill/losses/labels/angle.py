"""AnglE: order the pairs of a batch by the angle between complex vectors, which has a gradient where cosine is flat."""

__all__ = ["AnglE", "angle"]

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import PositiveFloat
from typing_extensions import override

from jdistill.losses.base import LossConfig, queries_of
from jdistill.losses.blocks import over_rows
from jdistill.losses.labels.cosent import log_violations
from jdistill.losses.labels.precise_cosine import precise_cosine
from jdistill.losses.labels.row_labels import pair_labels
from jdistill.losses.maths import absolute
from jdistill.types import LossInputs

ROWS = 512
"""Pairs whose similarity is computed at a time, since it needs many copies of the vectors."""


class AnglE(LossConfig):
    """CoSENT on angles in complex space; hard negatives are additional pairs of opposite label."""

    kind: Literal["angle"] = "angle"
    papers = ("doi:10.18653/v1/2024.acl-long.101",)
    temperature: PositiveFloat = 0.05
    """Divides differences of similarity; usually 0.01 to 0.1."""

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """The loss of the whole batch, repeated for every row.

        A query forms a pair with its document, of the row's label `y`, and with each of its hard negatives, of label
        `1 - y`. Rows with hard negatives but no label have y = 1.

        Raises:
          UserError: if the rows are plain texts, have several scores each, or neither scores nor hard negatives.
        """
        side = inputs.student
        queries = queries_of(side.all_queries, self.kind)
        n, k = len(queries), side.negatives.shape[1]
        labels = jnp.ones(n) if inputs.all_scores is None and k else pair_labels(inputs.all_scores, self.kind)
        # all_documents has column after column, so queries and labels are repeated in that order.
        loss = angle(
            jnp.tile(queries, (1 + k, 1)),
            side.all_documents,
            jnp.concatenate([labels, jnp.tile(1 - labels, k)]),
            temperature=self.temperature,
        )
        return jnp.broadcast_to(loss, inputs.rows.shape)


def angle(
    queries: Float[Array, "p d"],
    documents: Float[Array, "p d"],
    labels: Float[Array, " p"],
    *,
    temperature: float = 0.05,
) -> Float[Array, ""]:
    """Score every pair above all pairs of a lower label, by their angle in complex space.

    The gradient of cosine vanishes near 1 and -1, so pairs that are already close get little gradient from `cosent`.
    This similarity has a gradient there. Meant to be combined with `info_nce`.
        loss = log(1 + sum_{y_i > y_j} exp((s_j - s_i) / temperature)),   s_i = angle_similarity(q_i, d_i)

    Args:
      queries: of the whole batch, `[p, d]`, any float; maths runs in float32. One may occur in several pairs.
      documents: the document of each pair, `[p, d]`.
      labels: how alike each pair is, `[p]`, on any scale; pairs of equal label are not compared.
      temperature: divides differences of similarity; dimensionless, > 0.

    Returns:
      One number for the batch, >= 0; 0 with no gradient if all labels are equal.

    Source:
      Li and Li 2024, AoE, doi:10.18653/v1/2024.acl-long.101, with the subtraction in the order of their code, which
      is the opposite of that in their equation 3. Our `temperature` is their tau.
      Parity: sentence-transformers AnglELoss(scale=1/temperature).

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> round(float(angle(x, x, jnp.array([1.0, 0.0]))), 4)
      0.6931
    """
    scores = over_rows(lambda pairs: angle_similarity(*pairs), (queries, documents), block=ROWS)
    return log_violations(scores, labels, temperature=temperature)


def angle_similarity(a: Float[Array, "p d"], b: Float[Array, "p d"]) -> Float[Array, " p"]:
    """Compare vectors as complex ones: the first half are the real parts, the second the imaginary parts.

        s = |Re z + Im z|,   z = sum_v a_v conj(b_v),   a and b of unit length

    The real part of z is the cosine of `a` and `b`; the imaginary part is the cosine of -i `a` and `b`, whose gradient
    is largest where the vectors agree. Vectors of odd width are padded with a zero.

    Returns:
      Similarity of each vector of `a` with the same row of `b`, in [0, sqrt(2)]; its gradient is 0 where it is 0.
    """
    if a.shape[1] % 2:
        a, b = (jnp.pad(x, ((0, 0), (0, 1))) for x in (a, b))
    real, imaginary = jnp.split(a, 2, axis=1)
    turned = jnp.concatenate([imaginary, -real], axis=1)  # -i a
    return absolute(precise_cosine(a, b) + precise_cosine(turned, b))
