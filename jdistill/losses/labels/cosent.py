"""CoSENT: order the pairs of a batch as their labels do.

Only the order of the labels matters, so any scale works. Each pair is compared with every pair of a lower label without
forming that matrix: with the pairs sorted by label, those of a lower label are the first ones, and a running
log-sum-exp has the sum over them.
"""

__all__ = ["CoSENT", "cosent"]

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from pydantic import PositiveFloat
from typing_extensions import override

from jdistill.losses.base import LossConfig, queries_of
from jdistill.losses.labels.precise_cosine import precise_cosine
from jdistill.losses.labels.row_labels import pair_labels
from jdistill.losses.maths import Similarity, pair_scores
from jdistill.types import LossInputs, PairEmbeddings


class CoSENT(LossConfig):
    """Penalty for every two pairs of the batch whose similarities are ordered differently from their labels."""

    kind: Literal["cosent"] = "cosent"
    papers = ("doi:10.1109/TASLP.2024.3402087", "https://kexue.fm/archives/8847")
    temperature: PositiveFloat = 0.05
    """Divides differences of similarity; usually 0.01 to 0.1 for cosine and 1 for dot products."""
    similarity: Similarity = "cosine"
    """How a query is scored against its document."""

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """The loss of the whole batch, repeated for every row; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts, or have not one score each.
        """
        queries = queries_of(inputs.student.all_queries, self.kind)
        labels = pair_labels(inputs.all_scores, self.kind)
        documents = inputs.student.all_documents[: len(labels)]
        loss = cosent(queries, documents, labels, temperature=self.temperature, similarity=self.similarity)
        return jnp.broadcast_to(loss, inputs.rows.shape)

    @override
    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Report scores that are all equal."""
        if scores is None or len(scores) < 2 or bool((scores != scores[:1]).any()):
            return []
        return [f"every pair of the first batch has the score {float(scores[0, 0]):g}, so there is no order to learn."]


def cosent(
    queries: Float[Array, "n d"],
    documents: Float[Array, "n d"],
    labels: Float[Array, " n"],
    *,
    temperature: float = 0.05,
    similarity: Similarity = "cosine",
) -> Float[Array, ""]:
    """Score every pair above all pairs of a lower label.

    For pairs scored by people. It depends on the order of the labels only, so unlike regression it works for scales
    that are not those of a cosine.
        loss = log(1 + sum_{y_i > y_j} exp((s_j - s_i) / temperature)),   s_i = sim(q_i, d_i)

    Args:
      queries: of the whole batch, `[n, d]`, any float; maths runs in float32.
      documents: the document of each query, `[n, d]`.
      labels: how alike each pair is, `[n]`, on any scale; pairs of equal label are not compared.
      temperature: divides differences of similarity; dimensionless, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.

    Returns:
      One number for the batch, >= 0; 0 with no gradient if all labels are equal, as they are in a batch of one.

    Source:
      Huang et al. 2024, CoSENT, doi:10.1109/TASLP.2024.3402087, after Su 2022, https://kexue.fm/archives/8847. Our
      `temperature` is 1 over their lambda.
      Parity: sentence-transformers CoSENTLoss(scale=1/temperature).

    Example:
      >>> x = jnp.eye(2)
      >>> print(cosent(x, x[::-1], jnp.array([1.0, 0.0])).round(4), cosent(x, x, jnp.array([1.0, 1.0])))
      0.6931 0.0
    """
    cosine = similarity == "cosine"
    scores = precise_cosine(queries, documents) if cosine else pair_scores(queries, documents, "dot")
    return log_violations(scores, labels, temperature=temperature)


def log_violations(scores: Float[Array, " p"], labels: Float[Array, " p"], *, temperature: float) -> Float[Array, ""]:
    """`log(1 + sum_{y_i > y_j} exp((s_j - s_i) / temperature))` of scores `s` and labels `y`, in O(p) memory."""
    order = jnp.argsort(labels)
    scores, labels = scores[order], labels[order]

    # Running log-sum-exp: the largest score so far, and the sum of exp((score - largest) / temperature). The largest is
    # a constant, so that the derivative flows through the sum alone: each score starts as exp(0) = 1, with derivative
    # 1 / temperature. Scores are subtracted before the division, which would round each to a 6e-8th of a large logit.
    def merge(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        largest = jnp.maximum(a[0], b[0])
        sums = (total * jnp.exp((score - largest) / temperature) for score, total in (a, b))
        return largest, sum(sums, jnp.zeros_like(largest))

    fixed = lax.stop_gradient(scores)
    largest, total = lax.associative_scan(merge, (fixed, jnp.exp((scores - fixed) / temperature)))

    # Pairs of equal label are not compared: the sum that pair i needs ends before the first pair of its own label.
    lower = jnp.searchsorted(labels, labels)
    last = jnp.maximum(lower - 1, 0)
    differences = jnp.where(lower > 0, largest[last] - scores, -jnp.inf)

    # Without any pair of a lower label every difference is -inf, and the loss log(1 + 0). Otherwise, with w the largest
    # exponent if it is above 0, else 0:
    #     log(1 + sum) = w + log(exp(-w) + sum exp(-w)) = w + log1p(expm1(-w) + sum exp(-w))
    # which neither overflows nor loses a sum far below 1.
    worst = lax.stop_gradient(jax.nn.relu(differences.max()))
    violations = jnp.sum(total[last] * jnp.exp((differences - worst) / temperature))
    return worst / temperature + jnp.log1p(jnp.expm1(-worst / temperature) + violations)
