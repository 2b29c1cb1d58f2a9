"""Contrast each of a row's documents with the batch, weighted by the teacher's score."""

__all__ = ["M3KD", "m3_kd"]

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import PositiveFloat
from typing_extensions import override

from jdistill.losses.base import Needs, Streamed, local_candidates, queries_of
from jdistill.losses.blocks import SINGLE_DEVICE, logsumexp_over
from jdistill.losses.maths import Similarity, float32, matmul, unit
from jdistill.losses.scores.operands import Targets, own_documents, sample_of_scores, target_scores
from jdistill.losses.softmax import logits_of, underflow_warnings
from jdistill.losses.temperature import Temperature, temperature_of, temperature_parameters
from jdistill.types import CandidateExchange, LossInputs, PairEmbeddings

LOWEST = -1e30
"""A logit without weight in any sum, but finite."""


class M3KD(Streamed):
    """Teacher-weighted cross-entropy of each of a row's documents among the batch, earlier documents excluded."""

    kind: Literal["m3_kd"] = "m3_kd"
    papers = ("arXiv:2402.03216",)
    targets: Targets = "scores"
    """Source of the teacher's scores of a row's documents: the data (scores), or the teacher's vectors on disk
    (vectors)."""
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    temperature: Temperature = 0.02
    """Divides the student's scores."""
    teacher_temperature: PositiveFloat = 1.0
    """Divides the teacher's scores: about 1 for a cross-encoder's, 0.01 to 0.1 for cosines of a teacher's vectors."""

    @override
    def needs(self) -> Needs:
        return Needs(teacher=self.targets == "vectors")

    @override
    def parameters(self) -> dict[str, Array]:
        return temperature_parameters(self.temperature)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Loss of each row.

        Raises:
          UserError: if the rows have no queries, or given scores are missing.
        """
        return m3_kd(
            queries_of(inputs.student.queries, self.kind),
            own_documents(inputs.student),
            local_candidates(inputs.student.documents, inputs.student.negatives),
            inputs.rows,
            target_scores(inputs, self.targets, self.kind, similarity=self.similarity),
            temperature=temperature_of(self.temperature, inputs.parameters),
            teacher_temperature=self.teacher_temperature,
            similarity=self.similarity,
            block=self.block,
            # Column after column, as in local_candidates.
            owners=jnp.tile(inputs.rows, 1 + inputs.student.negatives.shape[1]),
            sweep=inputs.sweep,
        )

    @override
    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Report NaN in the teacher's scores, and scores that underflow in the softmax."""
        what, logits = "the given scores", scores
        if self.targets == "vectors":
            what, logits = "the scores of its vectors", sample_of_scores(teacher, "own", self.similarity)
        if logits is None:
            return []
        return underflow_warnings(np.asarray(logits), self.teacher_temperature, what=what, option="teacher_temperature")


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
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, " b"]:
    """Rank a query's documents as the teacher does, and all of them above the rest of the batch.

    Combines InfoNCE with score distillation: every document of the row is a positive, weighted by the teacher, and a
    negative only of those before it, so documents should be ordered from best to worst.
        loss_i = sum_a p_ia (log(sum_{a' >= a} exp z_ia' + sum_{j not of row i} exp z_ij) - z_ia)
        p_i = softmax_a(teacher_ia / T_t),   z = sim / T

    Args:
      queries: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      documents: of each row, its own, then its hard negatives, `[b, c, d]`.
      candidates: documents and hard negatives of the whole batch, all documents first, `[m, d]`, m = n c; or this
        device's share.
      positives: index of each row in the batch, `[b]`, which is the column of its own document.
      teacher: score of each of the row's documents, `[b, c]`; a document with -inf has weight 0, but is still a
        negative of those before it. A row whose scores are all -inf gives 0.
      temperature: T, divides the student's scores, > 0.
      teacher_temperature: T_t, divides the teacher's scores, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      block: candidates scored at a time; affects memory and speed only.
      owners: index of the row that each candidate belongs to, `[m]`; by default for all candidates of the batch.
      sweep: pairs the rows with the candidates of all devices.

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
    scores = jnp.einsum("bd,bcd->bc", q, documents, precision=lax.Precision.HIGHEST)
    # Only differences of scores matter. Relative to the row's largest they are small, which keeps their digits when
    # they are divided by the temperature and summed.
    largest = lax.stop_gradient(jnp.max(scores, axis=1))
    own = (scores - largest[:, None]) / temperature
    rows, pool = (q, largest, positives), (candidates, owners)
    others = logsumexp_over(_other_rows, rows, pool, jnp.asarray(temperature), block=block, sweep=sweep)
    # The negatives of document a: all documents after it in the row, and the other rows' candidates. A batch of one has
    # none of the latter; a finite number in place of -inf, the log of their sum, keeps NaN out of the gradient.
    later = jnp.concatenate([own[:, 1:], jnp.maximum(others, LOWEST)[:, None]], axis=1)
    negatives = lax.cumlogsumexp(later, axis=1, reverse=True)

    t = logits_of(lax.stop_gradient(float32(teacher)), teacher_temperature)
    # The softmax of a row of nothing but -inf is NaN, and becomes 0; no gradient goes through the teacher's scores.
    weights = jnp.where((t > -jnp.inf).any(axis=1, keepdims=True), jax.nn.softmax(t, axis=1), 0.0)
    # log(exp z_a + negatives) - z_a = log(1 + exp(log negatives - z_a)) = softplus(negatives - own)
    return jnp.sum(weights * jax.nn.softplus(negatives - own), axis=1)


def _other_rows(rows: Any, candidates: Any, temperature: Float[Array, ""]) -> Float[Array, "b k"]:
    """Logits of the candidates of other rows, relative to the row's largest; -inf for the row's own."""
    (q, largest, row), (vectors, owner) = rows, candidates
    logits = (matmul(q, vectors.T) - largest[:, None]) / temperature
    return jnp.where(row[:, None] == owner[None], -jnp.inf, logits)
