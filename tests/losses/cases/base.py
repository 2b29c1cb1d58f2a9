"""The table of losses: every loss, with each of its options, beside an independent reference.

A reference is torch in float64, from sentence-transformers where it has the loss, else written out from the source. It
takes the student's and the teacher's columns (queries if there are any, documents, then each hard negative) and returns
the loss of the batch; torch differentiates it. A new loss gets its rows here; a contract test fails without one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jdistill.losses import EmbedCosine, EmbedKL, EmbedL2, EmbedMSE, InfoNCE, LossConfig, ScoreZscore

TEACHER = "t"
Tensor = Any


class Texts(NamedTuple):
    """One side's vectors in torch, for a reference."""

    queries: Tensor | None
    documents: list[Tensor]

    def columns(self) -> list[Tensor]:
        return [*([] if self.queries is None else [self.queries]), *self.documents]


class Case(NamedTuple):
    loss: LossConfig
    reference: Callable[[Texts, Texts], Tensor]
    """Student, teacher -> scalar."""
    needs_queries: bool = False


def embed_distill(metric: str) -> Callable[[Texts, Texts], Tensor]:
    def reference(student: Texts, teacher: Texts) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

        return EmbedDistillLoss(None, metric).compute_loss_from_embeddings(student.columns(), teacher.columns())

    return reference


def kl_over_dimensions(temperature: float) -> Callable[[Texts, Texts], Tensor]:
    def reference(student: Texts, teacher: Texts) -> Tensor:
        import torch
        from torch.nn.functional import kl_div, log_softmax, softmax

        columns = zip(student.columns(), teacher.columns(), strict=True)
        values = [
            kl_div(log_softmax(s / temperature, -1), softmax(t / temperature, -1), reduction="batchmean")
            for s, t in columns
        ]
        return torch.stack(values).mean() * temperature**2

    return reference


def multiple_negatives(temperature: float, similarity: str) -> Callable[[Texts, Texts], Tensor]:
    def reference(student: Texts, teacher: Texts) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from sentence_transformers.util import cos_sim, dot_score

        function = {"cosine": cos_sim, "dot": dot_score}[similarity]
        loss = MultipleNegativesRankingLoss(None, scale=1 / temperature, similarity_fct=function)
        return loss.compute_loss_from_embeddings(student.columns(), None)

    return reference


def whole_matrix_zscore(similarity: str = "cosine", candidates: str = "documents", eps: float = 1e-6):
    def zscored(side: Texts) -> Tensor:
        import torch

        columns = torch.cat(side.documents if candidates == "all" else side.documents[:1])
        rows = side.documents[0] if side.queries is None else side.queries
        if similarity == "cosine":
            rows, columns = (torch.nn.functional.normalize(x, dim=-1) for x in (rows, columns))
        matrix = rows @ columns.T
        centred = matrix - matrix.mean()
        # torch.std divides by zero for a single score, and has no gradient where all are equal; a norm has.
        deviation = torch.norm(centred) / max(matrix.numel() - 1, 1) ** 0.5
        return centred / (deviation + eps) if deviation > 1e-6 * matrix.mean().abs() else 0 * matrix

    return lambda student, teacher: (zscored(student) - zscored(teacher)).square().mean()


CASES: dict[str, Case] = {
    "embed_cosine": Case(EmbedCosine(teacher=TEACHER), embed_distill("cosine")),
    "embed_l2": Case(EmbedL2(teacher=TEACHER), embed_distill("l2")),
    "embed_mse": Case(EmbedMSE(teacher=TEACHER), embed_distill("mse")),
    "embed_kl": Case(EmbedKL(teacher=TEACHER), kl_over_dimensions(1.0)),
    "embed_kl, temperature 0.2": Case(EmbedKL(teacher=TEACHER, temperature=0.2), kl_over_dimensions(0.2)),
    "info_nce": Case(InfoNCE(), multiple_negatives(0.05, "cosine"), needs_queries=True),
    "info_nce, temperature 0.01": Case(
        InfoNCE(temperature=0.01), multiple_negatives(0.01, "cosine"), needs_queries=True
    ),
    "info_nce, dot": Case(
        InfoNCE(similarity="dot", temperature=1.0), multiple_negatives(1.0, "dot"), needs_queries=True
    ),
    "score_zscore": Case(ScoreZscore(teacher=TEACHER), whole_matrix_zscore()),
    "score_zscore, dot": Case(ScoreZscore(teacher=TEACHER, similarity="dot"), whole_matrix_zscore("dot")),
    "score_zscore, all candidates": Case(
        ScoreZscore(teacher=TEACHER, candidates="all"), whole_matrix_zscore(candidates="all")
    ),
    "score_zscore, eps 0.1": Case(ScoreZscore(teacher=TEACHER, eps=0.1), whole_matrix_zscore(eps=0.1)),
}
