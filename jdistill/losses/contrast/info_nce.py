"""InfoNCE: pick each query's document out of all documents of the batch, and keep the batch's other texts away."""

from collections.abc import Sequence
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field, field_validator, model_validator

from jdistill.losses.base import Needs, Streamed
from jdistill.losses.contrast.directions import TEXTS, Direction, Partition, check, combine, crosses, paired_queries
from jdistill.losses.contrast.false_negatives import FalseNegatives, Filter, TeacherFilter
from jdistill.losses.contrast.hardness import Hardness
from jdistill.losses.contrast.negatives import Candidates, Rows, Sharpness, log_excess
from jdistill.losses.maths import Similarity, float32, normalise
from jdistill.losses.schedule import Ramp, at
from jdistill.losses.temperature import Temperature, temperature_of, temperature_parameters
from jdistill.types import View


class InfoNCE(Streamed):
    """Cross-entropy of each query's document among all documents and hard negatives of the batch."""

    kind: Literal["info_nce"] = "info_nce"
    temperature: Temperature = 0.05
    """Divides the scores; usually 0.01 to 0.1 for cosine and 1 for dot products. `{start, min, max}` to learn it."""
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    directions: tuple[Direction, ...] = ("q2d",)
    """Which texts compete with the own pair. q2d: documents with a query's own; d2q: queries with a document's own;
    q2q and d2d: a query's fellow queries, a document's fellow documents, without the row's own."""
    partition: Partition = "joint"
    """One softmax over the candidates of all directions, or one of each direction, averaged; the latter for q2d and d2q
    only."""
    hardness: Hardness = "none"
    """Which negatives of q2d count for more the higher they score: other rows' documents (in_batch), the row's own hard
    negatives (hard), or both (all)."""
    strength: Annotated[float, Field(ge=0)] | Ramp = 0.0
    """Of hardness: times its similarity, which passes no gradient, is added to a negative's logit. 9 for in_batch and 5
    for hard are the literature's."""
    false_negatives: FalseNegatives = ()
    """Filters of candidates that may be as good as the row's own document: `by` text_hash, teacher or student."""

    @field_validator("strength")
    @classmethod
    def _raises_nothing_below_zero(cls, strength: float | Ramp) -> float | Ramp:
        if isinstance(strength, Ramp) and min(strength.start, strength.stop) < 0:
            raise ValueError(f"goes from {strength.start} to {strength.stop}; strength is never below 0.")
        return strength

    @model_validator(mode="after")
    def _options_go_together(self) -> "InfoNCE":
        check(self.directions, self.partition)
        if (self.hardness == "none") != (self.strength == 0):
            raise ValueError(
                f"hardness '{self.hardness}' with strength {self.strength} has no effect. Name which negatives count "
                "for more (in_batch, hard or all) and give a strength above 0, or leave both out."
            )
        return self

    def needs(self) -> Needs:
        """The teacher, if it tells false negatives."""
        return Needs(teacher=any(isinstance(filter_, TeacherFilter) for filter_ in self.false_negatives))

    def parameters(self) -> dict[str, Array]:
        """The temperature's, if it is learned."""
        return temperature_parameters(self.temperature)

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Loss of each row.

        Raises:
          UserError: if the rows are plain texts.
        """
        queries, all_queries = paired_queries(view, self.kind)
        documents, n = view.student.all_documents, all_queries.shape[0]
        return info_nce(
            queries,
            documents,
            view.rows,
            temperature=temperature_of(self.temperature, view.parameters),
            similarity=self.similarity,
            directions=self.directions,
            partition=self.partition,
            hardness=self.hardness,
            strength=at(self.strength, view.progress),
            false_negatives=[filter_.of(view, self.similarity) for filter_ in self.false_negatives],
            all_queries=all_queries,
            rows=view.rows,
            owners=jnp.arange(documents.shape[0]) % n,
            block=self.block,
        )


def info_nce(
    queries: Float[Array, "b d"],
    candidates: Float[Array, "c d"],
    positives: Int[Array, " b"],
    *,
    temperature: float | Float[Array, ""],
    similarity: Similarity = "cosine",
    directions: Sequence[Direction] = ("q2d",),
    partition: Partition = "joint",
    hardness: Hardness = "none",
    strength: float | Float[Array, ""] = 0.0,
    false_negatives: Sequence[Filter] = (),
    all_queries: Float[Array, "n d"] | None = None,
    rows: Int[Array, " b"] | None = None,
    owners: Int[Array, " c"] | None = None,
    block: int = 512,
) -> Float[Array, " b"]:
    """Score each query's own document above every other document of the batch.

    The usual contrastive loss of retrieval; it needs no teacher. Larger batches and hard negatives make it harder.
        loss_i = logsumexp_j(s_ij) - s_i,pos(i),   s_ij = sim(q_i, c_j) / temperature
    Further directions add candidates to the logsumexp (`"joint"`), or terms to a mean (`"per_direction"`): d2q the
    scores of the own document with all queries, q2q of the query with other rows' queries, d2d of the own document with
    other rows' documents and hard negatives. Hardness adds `strength * stop_gradient(sim)` to s_ij of some negatives.

    Args:
      queries: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: documents of the whole batch, hard negatives included, `[c, d]`.
      positives: column of each row's own document, `[b]`, values in `[0, c)`.
      temperature: divides the scores; dimensionless, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      directions: `"q2d"`, and any of `"q2q"`, `"d2q"`, `"d2d"`.
      partition: `"joint"`, or `"per_direction"` for q2d and d2q only.
      hardness: which negatives of q2d are raised: `"in_batch"` other rows' documents, `"hard"` own hard negatives, or
        `"all"`.
      strength: of hardness, >= 0.
      false_negatives: filters made by `same_text` or `guided`; what one of them tells is left out of the negatives.
      all_queries: queries of the whole batch, `[n, d]`; `queries` if they are all.
      rows: index of each row in `all_queries`, `[b]`; in order from 0 if left out.
      owners: index of the row that each candidate belongs to, `[c]`, which tells own hard negatives; if left out, only
        the positives belong to anyone.
      block: candidates scored at a time; decides memory, never the result.

    Returns:
      Loss of each row in nats, `[b]`, >= 0; the caller averages.

    Raises:
      ValueError: if q2d is missing, or a direction does not go with the partition.

    Source:
      van den Oord et al. 2018, arXiv:1807.03748, equation 4, with f = exp(s). All directions in one softmax: Li et al.
      2023, arXiv:2308.03281. Hardness: Lan et al. 2025, arXiv:2503.04812, equation 5, and Schechter Vera et
      al. 2025, arXiv:2509.20354.
      Parity: sentence-transformers MultipleNegativesRankingLoss(scale=1/temperature) in all its options, and
      GISTEmbedLoss by a filter `guided`; there contrast_anchors is q2q, and contrast_positives is d2d without the hard
      negatives.

    Example:
      >>> round(float(info_nce(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=1.0).mean()), 4)
      0.3133
    """
    check(directions, partition)
    rows = jnp.arange(queries.shape[0]) if rows is None else rows
    if owners is None:
        owners = jnp.full(candidates.shape[0], -1).at[positives].set(rows)
    prepared = normalise if similarity == "cosine" else float32
    queries, candidates = prepared(queries), prepared(candidates)
    all_queries = queries if all_queries is None else prepared(all_queries)

    texts = {"queries": queries, "documents": candidates[positives]}
    pair_scores = jnp.sum(texts["queries"] * texts["documents"], axis=-1)
    partners = {"queries": rows, "documents": positives}
    count = jnp.arange(all_queries.shape[0])
    pools = {"queries": (all_queries, count, count), "documents": (candidates, owners, jnp.arange(len(owners)))}
    sharpness = Sharpness(jnp.asarray(temperature, jnp.float32), jnp.asarray(strength, jnp.float32))

    excesses = {}
    for direction in directions:
        side, pool = TEXTS[direction]
        known_of_rows = tuple(f.rows[side] for f in false_negatives)
        known_of_pool = tuple(f.candidates[pool] for f in false_negatives)
        excesses[direction] = log_excess(
            Rows(texts[side], pair_scores, rows, partners[pool], known_of_rows),
            Candidates(*pools[pool], known_of_pool),
            sharpness,
            one_side=not crosses(direction),
            hardness=hardness if direction == "q2d" else "none",
            verdicts=[f.verdict for f in false_negatives],
            block=block,
        )
    return combine(excesses, partition)
