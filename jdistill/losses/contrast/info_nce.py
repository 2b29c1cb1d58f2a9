"""InfoNCE: identify each query's document among all documents of the batch."""

__all__ = ["InfoNCE", "info_nce"]

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field, field_validator, model_validator

from jdistill.losses.base import Needs, Streamed, local_candidate_ids, local_candidates, queries_of
from jdistill.losses.blocks import SINGLE_DEVICE
from jdistill.losses.contrast.directions import TEXTS, Direction, Partition, check, combine, crosses
from jdistill.losses.contrast.false_negatives import FalseNegatives, Filter, GuidedFilter, StudentFilter, TeacherFilter
from jdistill.losses.contrast.hardness import Hardness
from jdistill.losses.contrast.negatives import (
    Candidates,
    LogitParams,
    PairSide,
    Rows,
    negative_logsumexp,
    negative_logsumexp_both,
)
from jdistill.losses.contrast.prefixes import Vectors, pair_products, prefixed
from jdistill.losses.maths import Similarity, unit
from jdistill.losses.schedule import Ramp, at
from jdistill.losses.temperature import Learned, Temperature, temperature_of, temperature_parameters
from jdistill.papers import Papers
from jdistill.types import CandidateExchange, LossInputs


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
    strength: Annotated[float, Field(ge=0)] | Ramp = 0.0
    """Of hardness: strength times the similarity, without gradient, is added to a negative's logit. The papers use 9
    for in_batch and 5 for hard."""
    false_negatives: FalseNegatives = ()
    """Filters that exclude likely false negatives, `by` text_hash, teacher or student."""
    d2d_candidates: Literal["documents", "all"] | None = None
    """Negatives of d2d: other rows' documents (documents, as in GISTEmbedLoss), or also hard negatives (all, as in
    MultipleNegativesRankingLoss). Default: documents if false negatives are filtered by teacher or student, else all.
    The same without hard negatives."""

    @field_validator("strength")
    @classmethod
    def _raises_nothing_below_zero(cls, strength: float | Ramp) -> float | Ramp:
        if isinstance(strength, Ramp) and min(strength.start, strength.stop) < 0:
            raise ValueError(f"ramp from {strength.start} to {strength.stop}: strength is never below 0.")
        return strength

    @model_validator(mode="after")
    def _options_go_together(self) -> "InfoNCE":
        check(self.directions, self.partition)
        if (self.hardness == "none") != (self.strength == 0):
            raise ValueError(
                f"hardness '{self.hardness}' with strength {self.strength} has no effect. Set hardness to in_batch, "
                "hard or all and strength above 0, or leave both out."
            )
        return self

    @property
    def documents_alone(self) -> bool:
        """Whether d2d excludes hard negatives."""
        guided = any(isinstance(filter_, TeacherFilter | StudentFilter) for filter_ in self.false_negatives)
        return guided if self.d2d_candidates is None else self.d2d_candidates == "documents"

    def cited(self) -> Papers:
        """Also the papers on guides, directions in one softmax, hardness and learned temperatures that are in use."""
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

    def needs(self) -> Needs:
        """The teacher, if it filters false negatives."""
        return Needs(teacher=any(isinstance(filter_, TeacherFilter) for filter_ in self.false_negatives))

    def parameters(self) -> dict[str, Array]:
        """The temperature, if it is learned."""
        return temperature_parameters(self.temperature)

    def __call__(self, view: LossInputs) -> Float[Array, " b"]:
        """Loss of each row.

        Raises:
          UserError: if the rows are plain texts.
        """
        side = view.student
        queries = unit(queries_of(side.queries, self.kind), self.similarity)
        return self._of(view, queries, unit(local_candidates(side.documents, side.negatives), self.similarity))

    def at_prefixes(self, view: LossInputs, widths: tuple[int, ...]) -> Float[Array, "p b"] | None:
        """See LossConfig. None if the student filters false negatives, since these then differ between prefixes.

        Raises:
          UserError: if the rows are plain texts.
        """
        if any(isinstance(filter_, StudentFilter) for filter_ in self.false_negatives):
            return None
        side = view.student
        queries = prefixed(queries_of(side.queries, self.kind), widths, self.similarity)
        documents = prefixed(local_candidates(side.documents, side.negatives), widths, self.similarity)
        return self._of(view, queries, documents, widths)

    def _of(
        self, view: LossInputs, queries: Vectors, documents: Vectors, widths: tuple[int, ...] = ()
    ) -> Float[Array, "*p b"]:
        rows, c = view.rows, 1 + view.student.negatives.shape[1]
        pools = {
            "queries": Candidates(queries, rows, rows, ()),
            "documents": Candidates(documents, jnp.tile(rows, c), local_candidate_ids(view), ()),
        }
        return _losses(
            {"queries": queries, "documents": jax.tree.map(lambda x: x[: len(rows)], documents)},
            rows,
            pools,
            partners=rows,
            d2d_part=slice(len(rows) if self.documents_alone else None),
            widths=widths,
            temperature=temperature_of(self.temperature, view.parameters),
            strength=at(self.strength, view.progress),
            directions=self.directions,
            partition=self.partition,
            hardness=self.hardness,
            filters=[filter_.of(view, self.similarity) for filter_ in self.false_negatives],
            block=max(self.block // max(len(widths), 1), 1),  # a tile contains the scores of all prefixes
            sweep=view.sweep,
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
    d2d_columns: Int[Array, " k"] | None = None,
    block: int = 512,
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
      candidates: documents of the whole batch, hard negatives included, `[c, d]`.
      positives: column of each row's own document, `[b]`, values in `[0, c)`.
      temperature: divides the scores; dimensionless, > 0.
      similarity: `"cosine"`, or `"dot"` for raw inner products.
      directions: `"q2d"`, and any of `"q2q"`, `"d2q"`, `"d2d"`.
      partition: `"joint"`, or `"per_direction"` for q2d and d2q only.
      hardness: negatives of q2d whose logits are raised: `"in_batch"` other rows' documents, `"hard"` own hard
        negatives, or `"all"`.
      strength: of hardness, >= 0.
      false_negatives: filters made by `same_text` or `guided`; a candidate that any of them reports is excluded.
      all_queries: queries of the whole batch, `[n, d]`; by default `queries`.
      rows: index of each row in `all_queries`, `[b]`; by default 0, 1, ...
      owners: index of the row that each candidate belongs to, `[c]`, which identifies own hard negatives; by default
        only the positives belong to a row.
      d2d_columns: candidates of d2d, `[k]`, values in `[0, c)`; by default all. Every row's own document for
        GISTEmbedLoss.
      block: candidates scored at a time; affects memory and speed only.

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
      its contrast_positives d2d. Unlike there, a text is never its own negative, whatever the guide's score of the
      pair.

    Example:
      >>> round(float(info_nce(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=1.0).mean()), 4)
      0.3133
    """
    check(directions, partition)
    rows = jnp.arange(queries.shape[0]) if rows is None else rows
    if owners is None:
        owners = jnp.full(candidates.shape[0], -1).at[positives].set(rows)
    queries, candidates = unit(queries, similarity), unit(candidates, similarity)
    all_queries = queries if all_queries is None else unit(all_queries, similarity)
    count = jnp.arange(all_queries.shape[0])
    return _losses(
        {"queries": queries, "documents": candidates[positives]},
        rows,
        {
            "queries": Candidates(all_queries, count, count, ()),
            "documents": Candidates(candidates, owners, jnp.arange(len(owners)), ()),
        },
        partners=positives,
        d2d_part=slice(None) if d2d_columns is None else d2d_columns,
        temperature=temperature,
        strength=strength,
        directions=directions,
        partition=partition,
        hardness=hardness,
        filters=false_negatives,
        block=block,
    )


def _losses(
    texts: Mapping[str, Vectors],
    rows: Int[Array, " b"],
    pools: Mapping[str, Candidates],
    *,
    partners: Int[Array, " b"],
    d2d_part: slice | Int[Array, " k"],
    temperature: float | Float[Array, ""],
    strength: float | Float[Array, ""],
    directions: Sequence[Direction],
    partition: Partition,
    hardness: Hardness,
    filters: Sequence[Filter],
    widths: tuple[int, ...] = (),
    block: int,
    sweep: CandidateExchange | None = None,
) -> Float[Array, "*p b"]:
    """Loss of each row; for each prefix if vectors are Prefixed.

    Args:
      texts: the rows' `"queries"` and own `"documents"`, already normalised if scored by cosine.
      rows: index of each row in the whole batch.
      pools: the candidates that are `"queries"`, and those that are `"documents"`.
      partners: column of each row's own document.
      d2d_part: which of the document candidates d2d uses.
      temperature: divides the scores.
      strength: of hardness.
      directions: validated by `check`.
      partition: validated by `check`.
      hardness: negatives of q2d whose logits are raised.
      filters: of false negatives.
      widths: of the prefixes.
      block: candidates scored at a time.
      sweep: if given, the pools are this device's share of the candidates, starting with its rows' own texts.
    """
    pair_scores = pair_products(texts["queries"], texts["documents"], widths)
    columns = {"queries": rows, "documents": partners}
    sharpness = LogitParams(jnp.asarray(temperature, jnp.float32), jnp.asarray(strength, jnp.float32))
    verdicts = [f.verdict for f in filters]

    def excess(direction: Direction, part: slice | Int[Array, " k"]) -> Float[Array, "*p b"]:
        """Log of the relative weight of a direction's negatives, over a part of its candidates."""
        side, name = TEXTS[direction]
        pool = pools[name]._replace(filters=tuple(f.candidates[name] for f in filters))
        return negative_logsumexp(
            Rows(texts[side], pair_scores, rows, columns[name], tuple(f.rows[side] for f in filters)),
            jax.tree.map(lambda x: x[part], pool),
            sharpness,
            one_side=not crosses(direction),
            hardness=hardness if direction == "q2d" else "none",
            verdicts=verdicts,
            widths=widths,
            block=block,
            sweep=SINGLE_DEVICE if sweep is None else sweep,
        )

    def half(side: str) -> PairSide:
        known = jax.tree.map(lambda x: x[: len(rows)], tuple(f.candidates[side] for f in filters))
        return PairSide(texts[side], pair_scores, rows, tuple(f.rows[side] for f in filters), known)

    found = {}
    if sweep is not None and {"q2d", "d2q"} <= {*directions}:
        options = {"hardness": hardness, "verdicts": verdicts, "widths": widths, "block": block, "sweep": sweep}
        found["q2d"], found["d2q"] = negative_logsumexp_both(half("queries"), half("documents"), sharpness, **options)
        if len(pools["documents"].rows) > len(rows):
            found["q2d"] = jnp.logaddexp(found["q2d"], excess("q2d", slice(len(rows), None)))
    parts = {d: d2d_part if d == "d2d" else slice(None) for d in directions}
    return combine({d: found[d] if d in found else excess(d, parts[d]) for d in directions}, partition)
