"""InfoNCE: identify each query's document among all documents of the batch.

From top to bottom: the options, the loss as a function of arrays, the scores of one block of candidates (a *tile*), and
how directions combine. `blocks.py` sums tiles over all candidates of the batch, on one or several devices.
"""

__all__ = ["InfoNCE", "info_nce"]

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int
from pydantic import model_validator
from typing_extensions import override

from jdistill.losses.base import (
    TEXTS,
    Direction,
    Needs,
    Streamed,
    crosses,
    local_candidate_ids,
    local_candidates,
    own_documents,
    queries_of,
)
from jdistill.losses.blocks import SINGLE_DEVICE, logsumexp_both, logsumexp_over
from jdistill.losses.contrast.false_negatives import Excludes, FalseNegatives, Filter, GuidedFilter, TeacherFilter
from jdistill.losses.maths import Similarity, matmul, unit
from jdistill.losses.schedule import NonNegative, at
from jdistill.losses.temperature import Learned, Temperature, temperature_of, temperature_parameters
from jdistill.papers import Papers
from jdistill.types import CandidateExchange, LossInputs

Partition = Literal["joint", "per_direction"]
Hardness = Literal["none", "in_batch", "hard", "all"]


class InfoNCE(Streamed):
    """Cross-entropy of each query's document among all documents and hard negatives of the batch."""

    kind: Literal["info_nce"] = "info_nce"
    papers = ("arXiv:1807.03748",)
    temperature: Temperature = 0.05
    """Divides the scores; usually 0.01 to 0.1 for cosine, 1 for dot products. `{start, min, max}` to learn it."""
    similarity: Similarity = "cosine"
    """How two texts are scored."""
    directions: tuple[Direction, ...] = ("q2d",)
    """Which in-batch texts serve as negatives. q2d: other documents, scored against the query; d2q: other queries,
    scored against the document; q2q: other queries, against the query; d2d: other documents, against the document."""
    partition: Partition = "joint"
    """One softmax over the candidates of all directions, or one per direction, averaged (q2d and d2q only)."""
    hardness: Hardness = "none"
    """Which negatives of q2d get extra weight the higher they score: other rows' documents (in_batch), the row's own
    hard negatives (hard), or both (all)."""
    strength: NonNegative = 0.0
    """Of hardness: strength times the similarity, without gradient, is added to a negative's logit. The papers use 9
    for in_batch and 5 for hard."""
    false_negatives: FalseNegatives = ()
    """Filters that exclude likely false negatives, `by` text_hash, teacher or student."""
    d2d_candidates: Literal["documents", "all"] | None = None
    """Negatives of d2d: other rows' documents (documents, as in GISTEmbedLoss), or also hard negatives (all, as in
    MultipleNegativesRankingLoss). Default: documents if false negatives are filtered by teacher or student, else all.
    The same without hard negatives."""

    @model_validator(mode="after")
    def _options_go_together(self) -> "InfoNCE":
        check_directions(self.directions, self.partition)
        if (self.hardness == "none") != (self.strength == 0):
            raise ValueError(
                f"hardness '{self.hardness}' with strength {self.strength} has no effect. Set hardness to in_batch, "
                "hard or all and strength above 0, or leave both out."
            )
        return self

    @property
    def documents_alone(self) -> bool:
        """Whether d2d excludes hard negatives."""
        guided = any(isinstance(filter_, GuidedFilter) for filter_ in self.false_negatives)
        return guided if self.d2d_candidates is None else self.d2d_candidates == "documents"

    @override
    def cited(self) -> Papers:
        guides = [each for each in self.false_negatives if isinstance(each, GuidedFilter)]
        options = {
            "arXiv:2402.16829": bool(guides),
            "arXiv:2407.15831": any(guide.margin != 0 for guide in guides),
            "arXiv:2308.03281": self.partition == "joint" and len(self.directions) > 1,
            "arXiv:2503.04812": self.hardness in ("in_batch", "all"),
            "arXiv:2509.20354": self.hardness in ("hard", "all"),
            "arXiv:2103.00020": isinstance(self.temperature, Learned),
        }
        return (*self.papers, *(paper for paper, used in options.items() if used))

    @override
    def needs(self) -> Needs:
        return Needs(teacher=any(isinstance(filter_, TeacherFilter) for filter_ in self.false_negatives))

    @override
    def parameters(self) -> dict[str, Array]:
        return temperature_parameters(self.temperature)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        side, b = inputs.student, len(inputs.rows)
        return info_nce(
            queries_of(side.queries, self.kind),
            local_candidates(side.documents, side.negatives),
            temperature=temperature_of(self.temperature, inputs.parameters),
            similarity=self.similarity,
            directions=self.directions,
            partition=self.partition,
            hardness=self.hardness,
            strength=at(self.strength, inputs.progress),
            false_negatives=[config.make(inputs, self.similarity) for config in self.false_negatives],
            rows=inputs.rows,
            owners=jnp.tile(inputs.rows, 1 + side.negatives.shape[1]),
            columns=local_candidate_ids(inputs),
            # This device's own documents are the first b of its candidates.
            d2d_columns=slice(b) if self.documents_alone else slice(None),
            block=self.block,
            sweep=inputs.sweep,
        )


def info_nce(
    queries: Float[Array, "b d"],
    candidates: Float[Array, "c d"],
    positives: Int[Array, " b"] | None = None,
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
    columns: Int[Array, " c"] | None = None,
    d2d_columns: slice | Int[Array, " k"] = slice(None),
    block: int = 512,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, " b"]:
    """Score each query's own document above every other document of the batch.

    The usual contrastive loss for retrieval; it needs no teacher. Larger batches and hard negatives make it harder.
        loss_i = logsumexp_j(s_ij) - s_i,pos(i),   s_ij = sim(q_i, c_j) / temperature
    Further directions add candidates to the logsumexp (`"joint"`), or terms to a mean (`"per_direction"`): d2q the
    scores of the own document with all queries, q2q of the query with other rows' queries, d2d of the own document with
    other rows' documents and, unless `d2d_columns` excludes them, hard negatives. Hardness adds
    `strength * stop_gradient(sim)` to s_ij of some negatives.

    Args:
      queries: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: documents of the whole batch, hard negatives included, `[c, d]`; or this device's.
      positives: column of each row's own document, `[b]`, values in `[0, c)`; by default the first `b` candidates, from
        which q2d and d2q can be computed together.
      temperature: divides the scores; dimensionless, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      directions: `"q2d"`, and any of `"q2q"`, `"d2q"`, `"d2d"`.
      partition: `"joint"`, or `"per_direction"` for q2d and d2q only.
      hardness: negatives of q2d with raised logits: `"in_batch"` other rows' documents, `"hard"` own ones, or `"all"`.
      strength: of hardness, >= 0.
      false_negatives: filters made by `same_text` or `guided`; a candidate that any of them reports is excluded.
      all_queries: queries of the whole batch, `[n, d]`; by default `queries`.
      rows: index of each row in the whole batch, `[b]`; by default 0, 1, ...
      owners: index of the row that each candidate belongs to, `[c]`, which identifies own hard negatives; by default
        only the positives belong to a row.
      columns: index of each candidate in the whole batch, `[c]`; by default 0, 1, ...
      d2d_columns: candidates of d2d, `[k]` or a slice; by default all. The rows' own documents for GISTEmbedLoss.
      block: candidates scored at a time; affects memory and speed only.
      sweep: pairs the rows with the candidates of all devices.

    Returns:
      Loss of each row in nats, `[b]`, >= 0; the caller averages.

    Raises:
      ValueError: if q2d is missing, or a direction does not go with the partition.

    Source:
      van den Oord et al. 2018, arXiv:1807.03748, equation 4, with f = exp(s). All directions in one softmax: Li et al.
      2023, arXiv:2308.03281. Hardness: Lan et al. 2025, arXiv:2503.04812, equation 5, and Schechter Vera et
      al. 2025, arXiv:2509.20354.
      Parity: sentence-transformers MultipleNegativesRankingLoss(scale=1/temperature) in all its options, and
      GISTEmbedLoss by a filter `guided`, with d2d_columns of the rows' own documents; its contrast_anchors is q2q and
      its contrast_positives d2d. Unlike there, a text is never its own negative, whatever the guide's score.

    Example:
      >>> round(float(info_nce(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=1.0).mean()), 4)
      0.3133
    """
    check_directions(directions, partition)
    b, c = len(queries), len(candidates)
    rows = jnp.arange(b) if rows is None else rows
    columns = jnp.arange(c) if columns is None else columns
    # -1, no row's index: such a candidate is nobody's hard negative.
    if owners is None:
        owners = jnp.full(c, -1).at[own_documents(jnp.arange(c), positives, b)].set(rows)

    # Vectors whose inner products are the scores: of the rows' two texts, and of the candidates of each kind.
    queries, candidates = unit(queries, similarity), unit(candidates, similarity)
    texts = {"queries": queries, "documents": own_documents(candidates, positives, b)}
    pools = {"queries": queries if all_queries is None else unit(all_queries, similarity), "documents": candidates}
    pair_scores = jnp.sum(queries * texts["documents"], axis=-1)

    # What decides which candidates are negatives of which rows. A query is the positive of no row: column -1.
    row_of_query = rows if all_queries is None else jnp.arange(len(all_queries))
    places = {"queries": (row_of_query, jnp.full_like(row_of_query, -1)), "documents": (owners, columns)}
    own_columns = own_documents(columns, positives, b)
    row = {k: Text(rows, own_columns, tuple(f.rows[k] for f in false_negatives)) for k in texts}
    candidate = {k: Text(*places[k], tuple(f.candidates[k] for f in false_negatives)) for k in pools}

    # Log of the sum over each row's negatives, relative to its positive, in each direction.
    scaling = jnp.asarray(temperature, jnp.float32), jnp.asarray(strength, jnp.float32)
    logits = partial(negative_logits, hardness=hardness, filters=tuple(f.excludes for f in false_negatives))

    def over_negatives(direction: Direction, part: slice | Int[Array, " k"]) -> Float[Array, " b"]:
        text, pool = TEXTS[direction]
        against = jax.tree.map(lambda x: x[part], (pools[pool], candidate[pool]))
        tile = partial(one_direction, logits=partial(logits, direction=direction))
        return logsumexp_over(tile, (texts[text], pair_scores, row[text]), against, scaling, block=block, sweep=sweep)

    found: dict[Direction, Float[Array, " b"]] = {}
    if {"q2d", "d2q"} <= {*directions} and positives is None and all_queries is None:
        # Both score the same pairs of queries and own documents: one pass serves both, in little more than the time
        # of one (docs/performance.md). Hard negatives are added after it, since only q2d has them.
        of_queries, of_documents = ((texts[k], pair_scores, row[k], candidate[k]) for k in ("queries", "documents"))
        of_documents = jax.tree.map(lambda x: x[:b], of_documents)
        tile = partial(both_directions, logits=logits)
        found["q2d"], found["d2q"] = logsumexp_both(tile, of_queries, of_documents, scaling, block=block, sweep=sweep)
        if c > b:
            found["q2d"] = jnp.logaddexp(found["q2d"], over_negatives("q2d", slice(b, None)))
    parts = {direction: d2d_columns if direction == "d2d" else slice(None) for direction in directions}
    return combine({d: found[d] if d in found else over_negatives(d, parts[d]) for d in directions}, partition)


class Text(NamedTuple):
    """Texts of rows, or candidates: what decides which candidates are negatives of which rows."""

    rows: Int[Array, " t"]
    """Index in the whole batch of the row that each belongs to; -1: none."""
    columns: Int[Array, " t"]
    """Of a row, the column of its positive among all documents; of a candidate its own, or -1 for a query."""
    filters: tuple[Any, ...]
    """Input of each filter of false negatives."""


def one_direction(
    rows: tuple[Float[Array, "b d"], Float[Array, " b"], Text],
    candidates: tuple[Float[Array, "k d"], Text],
    scaling: tuple[Float[Array, ""], Float[Array, ""]],
    *,
    logits: Callable[..., Float[Array, "b k"]],
) -> Float[Array, "b k"]:
    """The tile of one direction: some rows and a block of candidates."""
    (texts, pair_scores, row), (others, candidate) = rows, candidates
    return logits(matmul(texts, others.T), pair_scores, row, candidate, scaling)


def both_directions(
    queries: tuple[Float[Array, "b d"], Float[Array, " b"], Text, Text],
    documents: tuple[Float[Array, "k d"], Float[Array, " k"], Text, Text],
    scaling: tuple[Float[Array, ""], Float[Array, ""]],
    *,
    logits: Callable[..., Float[Array, "b k"]],
) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
    """The tile of q2d and d2q: every pair is scored once, and its score used twice."""
    (q, q_pair_scores, q_row, q_candidate), (d, d_pair_scores, d_row, d_candidate) = queries, documents
    scores = matmul(q, d.T)
    q2d = logits(scores, q_pair_scores, q_row, d_candidate, scaling, direction="q2d")
    return q2d, logits(scores, d_pair_scores, d_row, q_candidate, scaling, direction="d2q", transposed=True)


def negative_logits(
    scores: Float[Array, "x y"],
    pair_scores: Float[Array, " b"],
    row: Text,
    candidate: Text,
    scaling: tuple[Float[Array, ""], Float[Array, ""]],
    *,
    direction: Direction,
    hardness: Hardness,
    filters: tuple[Excludes, ...],
    transposed: bool = False,
) -> Float[Array, "x y"]:
    """Logit of each negative relative to that of the row's positive; -inf for candidates that are not negatives.

    Scores are `[b, k]`, or `[k, b]` if `transposed`: transposing the matrix itself would add 20 % to a pass.
    """
    of_row, of_candidate = (partial(jnp.expand_dims, axis=axis) for axis in ((0, 1) if transposed else (1, 0)))
    temperature, strength = scaling

    # Relative to the positive's, logits are small, and no difference of large numbers cancels later.
    logits = (scores - of_row(pair_scores)) / temperature

    # The row's own texts: its positive, and whatever else belongs to the row.
    positive = of_row(row.columns) == of_candidate(candidate.columns)
    own = positive | (of_row(row.rows) == of_candidate(candidate.rows))

    # Hardness: raise the logits of some negatives by their own scores, as a weight without gradient. `own` includes the
    # positive, which is left out below in any case.
    if hardness != "none" and direction == "q2d":
        raised = {"in_batch": ~own, "hard": own, "all": jnp.ones_like(own)}[hardness]
        logits += jnp.where(raised, strength * lax.stop_gradient(scores), 0.0)

    # In q2d the row's hard negatives count; in other directions none of its own texts do. False negatives never count.
    left_out = positive if direction == "q2d" else own
    for excludes, for_row, for_candidate in zip(filters, row.filters, candidate.filters, strict=True):
        false = excludes(for_row, for_candidate, scores.T if transposed else scores)
        left_out |= false.T if transposed else false
    return jnp.where(left_out, -jnp.inf, logits)


def combine(negatives: Mapping[Direction, Float[Array, " b"]], partition: Partition) -> Float[Array, " b"]:
    """Cross-entropy of each row's positive, given its negatives relative to it.

    Let N be the sum of a direction's exp(negative logit - positive logit); `negatives` holds its logarithm, -inf for a
    row without negatives. The loss is log(1 + N), averaged over directions, or log(p + N + N' + ...) over all of them,
    where p counts those that contain the positive. No difference of large numbers cancels in this form.
    """
    if partition == "per_direction":
        return jnp.stack([jnp.logaddexp(log_n, 0.0) for log_n in negatives.values()]).mean(axis=0)
    # log p: a positive has the logit 0 relative to itself, so each adds exp(0) = 1.
    positives = jnp.float32(math.log(sum(map(crosses, negatives))))
    return reduce(jnp.logaddexp, negatives.values(), positives)


def check_directions(directions: Sequence[Direction], partition: Partition) -> None:
    """Validate the combination of directions and partition.

    Raises:
      ValueError: if q2d is missing, a direction is repeated, or a softmax would not contain the positive.
    """
    if "q2d" not in directions:
        raise ValueError(f"directions {list(directions)} lack q2d, which scores a query's own document. Add it.")
    if len(set(directions)) < len(directions):
        raise ValueError(f"directions {list(directions)} name one twice. Name each once.")
    within = [direction for direction in directions if not crosses(direction)]
    if partition == "per_direction" and within:
        raise ValueError(
            f"partition 'per_direction' does not go with {' and '.join(within)}, whose candidates do not contain the "
            "positive. Use partition 'joint', or leave them out."
        )
