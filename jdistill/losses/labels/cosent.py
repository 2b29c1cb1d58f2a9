"""CoSENT: order the pairs of a batch as their labels do.

Only the order of the labels matters, so any scale works. Each pair is compared with every pair of another label
without forming that matrix: with the pairs sorted by label, cumulative sums from both ends give the value and its
gradient.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat

from jdistill.losses.base import LossConfig, queries_of
from jdistill.losses.labels.pairs import Scores, cosines, dots, labels_of
from jdistill.losses.maths import Similarity
from jdistill.types import LossInputs, PairEmbeddings


class CoSENT(LossConfig):
    """Penalty for every two pairs of the batch whose similarities are ordered differently from their labels."""

    kind: Literal["cosent"] = "cosent"
    temperature: PositiveFloat = 0.05
    """Divides differences of similarity; usually 0.01 to 0.1 for cosine and 1 for dot products."""
    similarity: Similarity = "cosine"
    """How a query is scored against its document."""

    def __call__(self, view: LossInputs) -> Float[Array, " b"]:
        """The loss of the whole batch, repeated for every row; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts, or have not one score each.
        """
        queries = queries_of(view.student.all_queries, self.kind)
        labels = labels_of(view.all_scores, self.kind)
        documents = view.student.all_documents[: len(labels)]
        loss = cosent(queries, documents, labels, temperature=self.temperature, similarity=self.similarity)
        return jnp.broadcast_to(loss, view.rows.shape)

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
    scored = cosines if similarity == "cosine" else dots
    return in_order(scored(queries, documents), labels, temperature=temperature)


def in_order(scores: Scores, labels: Float[Array, " p"], *, temperature: float) -> Float[Array, ""]:
    """`log(1 + sum_{y_i > y_j} exp((s_j - s_i) / temperature))` of scores `s` and labels `y`, in O(p) memory.

    The derivative is computed along with the value, from the same sums. With e_ij = exp((s_i - s_j) / temperature):
        dloss/ds_i = (sum_{y_h > y_i} e_ih - sum_{y_l < y_i} e_li) / (temperature exp(loss))
    """
    order = jnp.argsort(labels)
    ordered = jax.tree.map(lambda x: x[order], scores)
    fixed = lax.stop_gradient(ordered)
    value, slope = _value_and_slope(_divided(fixed, temperature), labels[order])
    return value + jnp.sum(slope / temperature * (ordered.rest - fixed.rest))


def _divided(scores: Scores, temperature: float) -> Scores:
    """The scores over a temperature. Coarse parts stay exact: they have 18 bits, and their factor has 5."""
    mantissa, exponent = math.frexp(1 / temperature)
    factor = math.ldexp(round(mantissa * 32) / 32, exponent)
    return Scores(scores.coarse * factor, scores.coarse * (1 / temperature - factor) + scores.rest / temperature)


def _value_and_slope(scores: Scores, labels: Float[Array, " p"]) -> tuple[Float[Array, ""], Float[Array, " p"]]:
    """The loss and its derivative for pairs sorted by label, at temperature 1."""
    below, above = _groups(labels)
    none = (Scores(jnp.array([-jnp.inf]), jnp.zeros(1)), jnp.zeros(1))
    negated = Scores(-scores.coarse, -scores.rest)
    lower, lower_total = jax.tree.map(lambda x: x[below], _joined(none, _running(scores)))
    higher, higher_total = jax.tree.map(lambda x: x[above], _joined(_running(negated, reverse=True), none))

    # Stable log-sum-exp: subtract the largest violation, or 0 if that is larger, from every exponent.
    over, under = jax.tree.map(jnp.add, scores, higher), jax.tree.map(jnp.add, lower, negated)
    sums = over.coarse + over.rest
    worst = jnp.argmax(sums)
    shift = jax.tree.map(lambda x: jnp.where(sums[worst] > 0, x[worst], 0.0), over)
    over_total, under_total = higher_total * _exp(over, shift), lower_total * _exp(under, shift)
    violations, shift = over_total.sum(), shift.coarse + shift.rest
    slope = (over_total - under_total) / (jnp.exp(-shift) + violations)
    return shift + jnp.log1p(jnp.expm1(-shift) + violations), slope


def _groups(labels: Float[Array, " p"]) -> tuple[Int[Array, " p"], Int[Array, " p"]]:
    """For each of the sorted labels, the number of lower ones, and the number of those not higher."""
    p = len(labels)
    places = jnp.arange(p)
    changes = labels[1:] != labels[:-1]
    edge = jnp.ones(1, bool)
    below = lax.cummax(jnp.where(jnp.concatenate([edge, changes]), places, 0))
    above = lax.cummin(jnp.where(jnp.concatenate([changes, edge]), places + 1, p), reverse=True)
    return below, above


def _running(scores: Scores, *, reverse: bool = False) -> tuple[Scores, Float[Array, " p"]]:
    """Cumulative maximum of the scores, and cumulative sum of `exp(score - maximum)`."""

    def join(a: tuple[Scores, Array], b: tuple[Scores, Array]) -> tuple[Scores, Array]:
        first = a[0].coarse + a[0].rest > b[0].coarse + b[0].rest
        largest = jax.tree.map(lambda x, y: jnp.where(first, x, y), a[0], b[0])
        return largest, a[1] * _exp(a[0], largest) + b[1] * _exp(b[0], largest)

    return lax.associative_scan(join, (scores, jnp.ones_like(scores.rest)), reverse=reverse)


def _exp(a: Scores, b: Scores) -> Float[Array, "*p"]:
    """`exp(a - b)`, computed from the parts separately, since their sum would be rounded."""
    return jnp.exp(a.coarse - b.coarse) * jnp.exp(a.rest - b.rest)


def _joined(*parts: Any) -> Any:
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
