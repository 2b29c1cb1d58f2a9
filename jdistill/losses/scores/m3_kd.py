"""Contrast each of a row's documents with the batch, as much as the teacher thinks of it."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat

from jdistill.losses.base import Needs, Streamed, queries_of, share_of
from jdistill.losses.blocks import HERE, logsumexp_over
from jdistill.losses.maths import Similarity, float32, matmul, unit
from jdistill.losses.scores.operands import (
    Targets,
    own_documents,
    sample_of_scores,
    target_scores,
)
from jdistill.losses.softmax import logits_of, lost_targets
from jdistill.losses.temperature import Temperature, temperature_of, temperature_parameters
from jdistill.types import Columns, Sweep, View

ABSENT = -1e30
"""Logit that no other is small beside: log of the sum over no candidates at all, but with a gradient."""


class M3KD(Streamed):
    """Cross-entropy of each of a row's documents among the batch, earlier ones taken out, weighted by the teacher."""

    kind: Literal["m3_kd"] = "m3_kd"
    targets: Targets = "scores"
    """Where the teacher's scores of a row's documents come from: the data, or the teacher's vectors on disk."""
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    temperature: Temperature = 0.02
    """Divides the student's scores."""
    teacher_temperature: PositiveFloat = 1.0
    """Divides the teacher's scores; 1 suits a cross-encoder's, and 0.01 to 0.1 cosines of a teacher's vectors."""

    def needs(self) -> Needs:
        """The teacher's vectors, in any width, unless scores are given."""
        return Needs(teacher=self.targets == "vectors")

    def parameters(self) -> dict[str, Array]:
        """The temperature, where it is learned."""
        return temperature_parameters(self.temperature)

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Loss of each row.

        Raises:
          UserError: if the rows have no queries, or not the scores that are to be given.
        """
        return m3_kd(
            queries_of(view.student.queries, self.kind),
            own_documents(view.student),
            share_of(view.student.documents, view.student.negatives),
            view.rows,
            target_scores(view, self.targets, self.kind, similarity=self.similarity),
            temperature=temperature_of(self.temperature, view.parameters),
            teacher_temperature=self.teacher_temperature,
            similarity=self.similarity,
            block=self.block,
            owners=jnp.tile(view.rows, 1 + view.student.negatives.shape[1]),
            sweep=view.sweep,
        )

    def examine(self, teacher: Columns | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Whether the teacher's scores are no numbers, or vanish in the softmax."""
        what, logits = "the given scores", scores
        if self.targets == "vectors":
            what, logits = "the scores of its vectors", sample_of_scores(teacher, "own", self.similarity)
        if logits is None:
            return []
        return lost_targets(np.asarray(logits), self.teacher_temperature, what=what, option="teacher_temperature")


def m3_kd(
    queries: Float[Array, "b d"],
    documents: Float[Array, "b c d"],
    candidates: Float[Array, "m d"],
    positives: Int[Array, " b"],
    teacher: Float[Array, "b c"],
    *,
    temperature: Float[Array, ""] | float = 0.02,
    teacher_temperature: float = 1.0,
    similarity: Similarity = "cosine",
    block: int = 512,
    owners: Int[Array, " m"] | None = None,
    sweep: Sweep = HERE,
) -> Float[Array, " b"]:
    """Rank a query's documents as the teacher does, all of them above the rest of the batch.

    InfoNCE and score distillation in one: every document of the row is a positive as far as the teacher thinks so, and
    is a negative only of those before it, so documents should come in the order of their merit.
        loss_i = sum_a p_ia (log(sum_{a' >= a} exp z_ia' + sum_{j not of row i} exp z_ij) - z_ia)
        p_i = softmax_a(teacher_ia / T_t),   z = sim / T

    Args:
      queries: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      documents: of each row, its own, then its hard negatives, `[b, c, d]`.
      candidates: documents and hard negatives of the whole batch, all documents first, `[m, d]`, m = n c.
        Or this device's share of them.
      positives: index of each row in the batch, `[b]`, which is the column of its own document.
      teacher: score of each of the row's documents, `[b, c]`; -inf gives a document no weight, but leaves it a negative
        of those before it. A row whose scores are all -inf gives 0.
      temperature: T, divides the student's scores, > 0.
      teacher_temperature: T_t, divides the teacher's scores, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      block: candidates scored at a time; decides memory only.
      owners: index of the row that each candidate belongs to, `[m]`; that of all candidates if left out.
      sweep: brings the shares of all devices together.

    Returns:
      Loss of each row in nats, `[b]`; >= 0.

    Source:
      Chen et al. 2024, arXiv:2402.03216, section 3.3, in the form of the authors' code.
      Parity: FlagEmbedding's `m3_kd_loss` with in-batch negatives.

    Example:
      >>> q, documents = jnp.eye(2), jnp.eye(2)[:, None]
      >>> round(float(m3_kd(q, documents, jnp.eye(2), jnp.arange(2), jnp.zeros((2, 1)), temperature=1.0).mean()), 4)
      0.3133
    """
    if owners is None:
        n, c = candidates.shape[0] // documents.shape[1], documents.shape[1]
        owners = jnp.tile(jnp.arange(n), c)
    q, documents, candidates = (unit(x, similarity) for x in (queries, documents, candidates))
    q = q / temperature
    own = jnp.einsum("bd,bcd->bc", q, documents, precision=lax.Precision.HIGHEST)
    # Only differences of logits count: those from the row's largest are small, and keep their digits in sums.
    largest = lax.stop_gradient(jnp.max(own, axis=1))
    own = own - largest[:, None]

    rows, columns = {"q": q, "row": positives, "from": largest}, {"c": candidates, "row": owners}
    others = jnp.maximum(logsumexp_over(_others, rows, columns, (), block=block, sweep=sweep), ABSENT)
    # What document a is picked out of, besides itself: all documents after it in the row, and the other rows'.
    rest = lax.cumlogsumexp(jnp.concatenate([own[:, 1:], others[:, None]], axis=1), axis=1, reverse=True)

    t = logits_of(lax.stop_gradient(float32(teacher)), teacher_temperature)
    weights = jnp.where((t > -jnp.inf).any(axis=1, keepdims=True), jax.nn.softmax(t, axis=1), 0.0)
    return jnp.sum(weights * jax.nn.softplus(rest - own), axis=1)


def _others(rows: Any, candidates: Any, shared: Any) -> Array:
    """Scores of the candidates that belong to another row."""
    scores = matmul(rows["q"], candidates["c"].T) - rows["from"][:, None]
    return jnp.where(rows["row"][:, None] == candidates["row"][None], -jnp.inf, scores)
