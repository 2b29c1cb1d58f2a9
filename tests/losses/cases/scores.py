"""Losses on scores beside sentence-transformers, or beside references written out in torch."""

from collections.abc import Callable

from jdistill.losses import M3KD, ScoreKL, ScoreMarginMSE, ScoreMSE, ScoreRank, ScoreZscore, draw_comparisons
from jdistill.losses.temperature import NAME, Learned
from tests.losses.cases.base import SECOND, TEACHER, Case, Given, Tensor, Texts

Reference = Callable[[Given], Tensor]


def normalised(x: Tensor, similarity: str) -> Tensor:
    import torch

    return torch.nn.functional.normalize(x, dim=-1) if similarity == "cosine" else x


def matrix(side: Texts, similarity: str, candidates: str) -> Tensor:
    """Scores of every text of the batch with every candidate."""
    import torch

    columns = torch.cat(side.documents if candidates == "all" else side.documents[:1])
    rows = side.documents[0] if side.queries is None else side.queries
    return normalised(rows, similarity) @ normalised(columns, similarity).T


def own(side: Texts, similarity: str) -> Tensor:
    """Scores of every query with its own documents."""
    import torch

    q = normalised(side.queries, similarity)
    return torch.stack([(q * normalised(x, similarity)).sum(dim=-1) for x in side.documents], dim=1)


def scored(side: Texts, similarity: str, candidates: str, direction: str) -> Tensor:
    """Scores of every text of the batch with its candidates, in any direction."""
    import torch

    if candidates == "own":
        return own(side, similarity)
    if candidates == "documents_and_own":
        return torch.cat([matrix(side, similarity, "documents"), own(side, similarity)[:, 1:]], dim=1)
    if direction == "q2d":
        return matrix(side, similarity, candidates)
    documents = torch.cat(side.documents if candidates == "all" else side.documents[:1])
    rows = {"q": side.queries, "d": side.documents[0]}[direction[0]]
    columns = {"q": side.queries, "d": documents}[direction[2]]
    return normalised(rows, similarity) @ normalised(columns, similarity).T


def pairwise(similarity: str) -> Callable:
    from sentence_transformers.util import pairwise_cos_sim, pairwise_dot_score

    return {"cosine": pairwise_cos_sim, "dot": pairwise_dot_score}[similarity]


def whole_matrix_zscore(similarity: str = "cosine", candidates: str = "documents", eps: float = 1e-6) -> Reference:
    def zscored(side: Texts) -> Tensor:
        import torch

        scores = matrix(side, similarity, candidates)
        centred = scores - scores.mean()
        # torch.std divides by zero for a single score, and has no gradient where all are equal; a norm has.
        deviation = torch.norm(centred) / max(scores.numel() - 1, 1) ** 0.5
        return centred / (deviation + eps) if deviation > 1e-6 * scores.mean().abs() else 0 * scores

    return lambda given: (zscored(given.student) - zscored(given.teacher)).square().mean()


def similarity_mse(similarity: str = "cosine", candidates: str = "documents") -> Reference:
    """RAG-Retrieval's similarity loss of Stella."""

    def reference(given: Given) -> Tensor:
        import torch

        ours, theirs = (matrix(side, similarity, candidates) for side in (given.student, given.teacher))
        return torch.nn.functional.mse_loss(ours, theirs)

    return reference


def info_nce_distill(
    temperature: float,
    teacher_temperature: float,
    divergence: str = "kl",
    *,
    similarity: str = "cosine",
    candidates: str = "documents",
    direction: str = "q2d",
) -> Reference:
    """NeMo's InfoNCE distillation, times the square of the student's temperature.

    Within one side and with `"mse"` it is NeMo's score distillation.
    """

    def reference(given: Given) -> Tensor:
        import torch
        from torch.nn.functional import kl_div, log_softmax, mse_loss, softmax

        s = scored(given.student, similarity, candidates, direction) / temperature
        t = scored(given.teacher, similarity, candidates, direction) / teacher_temperature
        # Equal logits have no gradient. Torch rounds it to 1e-17, which at a zero vector is divided by 1e-12.
        s = torch.where((s == t).all(dim=-1, keepdim=True), s.detach(), s)
        value = {
            "kl": lambda: kl_div(log_softmax(s, -1), softmax(t, -1), reduction="batchmean"),
            "cross_entropy": lambda: -(softmax(t, -1) * log_softmax(s, -1)).sum(dim=-1).mean(),
            "mse": lambda: mse_loss(softmax(s, -1), softmax(t, -1), reduction="sum") / len(s),
        }[divergence]
        return value() * temperature**2

    return reference


def distill_kl(temperature: float, teacher_temperature: float, similarity: str = "dot") -> Reference:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

        loss = DistillKLDivLoss(
            None,
            pairwise(similarity),
            student_temperature=temperature,
            teacher_temperature=teacher_temperature,
        )
        return loss.compute_loss_from_embeddings(given.student.columns(), given.scores)

    return reference


def row_by_row(loss: Callable, given: Given, labels: Tensor) -> Tensor:
    """A loss of sentence-transformers on each row with the candidates that have a finite label."""
    import torch

    values = []
    for i, scores in enumerate(labels):
        here = torch.isfinite(scores)
        kept = [x[i : i + 1] for x, keep in zip(given.student.documents, here, strict=True) if keep]
        columns = [given.student.queries[i : i + 1], *kept]
        values.append(loss.compute_loss_from_embeddings(columns, scores[here][None]))
    return torch.stack(values).mean()


def distill_kl_without_excluded(temperature: float) -> Reference:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

        loss = DistillKLDivLoss(None, pairwise("cosine"), temperature=temperature)
        return row_by_row(loss, given, given.scores)

    return reference


def local_divergence(divergence: str, temperature: float, teacher_temperature: float) -> Reference:
    """FlagEmbedding's `kl_div`, which is a cross-entropy, and NeMo's squared difference, over a row's documents."""

    def reference(given: Given) -> Tensor:
        from torch import log_softmax, softmax

        s, t = own(given.student, "cosine") / temperature, given.scores / teacher_temperature
        value = {
            "cross_entropy": lambda: -(softmax(t, -1) * log_softmax(s, -1)).sum(dim=-1),
            "mse": lambda: (softmax(s, -1) - softmax(t, -1)).square().sum(dim=-1),
        }[divergence]
        return value().mean() * temperature**2

    return reference


def margin_mse(targets: str, similarity: str = "dot") -> Reference:
    def reference(given: Given) -> Tensor:
        import torch
        from sentence_transformers.sentence_transformer.losses import MarginMSELoss

        labels = given.scores if targets == "scores" else own(given.teacher, similarity)
        loss = MarginMSELoss(None, pairwise(similarity))
        if torch.isfinite(labels).all():
            return loss.compute_loss_from_embeddings(given.student.columns(), labels)
        return row_by_row(loss, given, labels)

    return reference


def pair_order(
    margin: float = 0.015, pairs: int = 16, similarity: str = "cosine", candidates: str = "documents"
) -> Reference:
    """RAG-Retrieval's triplet loss of Stella, over the comparisons that are drawn."""

    def reference(given: Given) -> Tensor:
        import jax
        import numpy as np
        import torch

        from tests.losses.measure import KEY

        ours, theirs = (matrix(side, similarity, candidates) for side in (given.student, given.teacher))
        n, m = ours.shape
        key = jax.random.fold_in(jax.random.key(KEY), 0)
        drawn = draw_comparisons(key, n, m, pairs, among_themselves=given.student.queries is None)
        j, other, beside = (torch.tensor(np.asarray(x), dtype=torch.long) for x in drawn)
        i = torch.arange(n)[:, None]
        student, teacher = (x[i, j] - x[other, beside] for x in (ours, theirs))
        label = torch.where(teacher < 0, 1, -1)
        hinge = torch.relu(student * label + margin)
        return torch.where(teacher.abs() > 1e-6, hinge, 0 * hinge).mean()

    return reference


def m3_kd(
    temperature: float | None = 0.02,
    teacher_temperature: float = 1.0,
    *,
    targets: str = "scores",
    similarity: str = "cosine",
) -> Reference:
    """FlagEmbedding's `m3_kd_loss`; its candidates lie row by row, ours column by column."""

    def reference(given: Given) -> Tensor:
        import torch

        scores = given.scores if targets == "scores" else own(given.teacher, similarity)
        weights = torch.softmax(scores / teacher_temperature, dim=1)
        at = given.parameters[NAME].exp() if temperature is None else temperature
        logits = matrix(given.student, similarity, "all") / at
        n, total = len(logits), 0
        mask = torch.zeros_like(logits)
        for a in range(scores.shape[1]):
            target = torch.arange(n) + a * n
            values = torch.nn.functional.cross_entropy(logits + mask, target, reduction="none")
            total = total + (weights[:, a] * values).mean()
            mask = mask.scatter(1, target[:, None], torch.finfo(logits.dtype).min)
        return total

    return reference


def given_scores(loss: ScoreKL, reference: Reference) -> Case:
    return Case(loss, reference, queries=True, negatives=True, scores="documents")


ZSCORE = {
    "score_zscore": Case(ScoreZscore(teacher=TEACHER), whole_matrix_zscore()),
    "score_zscore, dot": Case(ScoreZscore(teacher=TEACHER, similarity="dot"), whole_matrix_zscore("dot")),
    "score_zscore, all candidates": Case(
        ScoreZscore(teacher=TEACHER, candidates="all"), whole_matrix_zscore(candidates="all")
    ),
    "score_zscore, eps 0.1": Case(ScoreZscore(teacher=TEACHER, eps=0.1), whole_matrix_zscore(eps=0.1)),
}

MSE = {
    "score_mse": Case(ScoreMSE(teacher=TEACHER), similarity_mse()),
    "score_mse, dot": Case(ScoreMSE(teacher=TEACHER, similarity="dot"), similarity_mse("dot")),
    "score_mse, all candidates": Case(
        ScoreMSE(teacher=TEACHER, candidates="all", block=20), similarity_mse(candidates="all")
    ),
    "score_mse, two teachers": Case(ScoreMSE(teacher=(TEACHER, SECOND), block=5), similarity_mse()),
}

KL = {
    "score_kl": Case(ScoreKL(teacher=TEACHER), info_nce_distill(0.05, 0.05)),
    "score_kl, teacher temperature": Case(
        ScoreKL(teacher=TEACHER, temperature=0.1, teacher_temperature=0.05), info_nce_distill(0.1, 0.05)
    ),
    "score_kl, temperature 1": Case(ScoreKL(teacher=TEACHER, temperature=1.0), info_nce_distill(1.0, 1.0)),
    "score_kl, dot": Case(
        ScoreKL(teacher=TEACHER, similarity="dot", temperature=0.5), info_nce_distill(0.5, 0.5, similarity="dot")
    ),
    "score_kl, all candidates": Case(
        ScoreKL(teacher=TEACHER, candidates="all", block=24), info_nce_distill(0.05, 0.05, candidates="all")
    ),
    "score_kl, cross-entropy": Case(
        ScoreKL(teacher=TEACHER, divergence="cross_entropy", block=6), info_nce_distill(0.05, 0.05, "cross_entropy")
    ),
    "score_kl, mse": Case(
        ScoreKL(teacher=TEACHER, divergence="mse", temperature=0.2, candidates="all", block=10),
        info_nce_distill(0.2, 0.2, "mse", candidates="all"),
    ),
    "score_kl, documents and own negatives": Case(
        ScoreKL(teacher=TEACHER, candidates="documents_and_own", block=6),
        info_nce_distill(0.05, 0.05, candidates="documents_and_own"),
        queries=True,
    ),
    "score_kl, documents and own negatives, mse": Case(
        ScoreKL(teacher=TEACHER, candidates="documents_and_own", divergence="mse", temperature=0.2, block=5),
        info_nce_distill(0.2, 0.2, "mse", candidates="documents_and_own"),
        queries=True,
    ),
    "score_kl, own candidates": Case(
        ScoreKL(teacher=TEACHER, candidates="own"),
        info_nce_distill(0.05, 0.05, candidates="own"),
        queries=True,
        negatives=True,
    ),
    **{
        f"score_kl, {direction}": Case(
            ScoreKL(teacher=TEACHER, direction=direction, temperature=0.2),
            info_nce_distill(0.2, 0.2, direction=direction),
            queries=True,
        )
        for direction in ("d2q", "q2q", "d2d")
    },
    **{
        f"score_kl, {direction}, mse": Case(
            ScoreKL(teacher=TEACHER, direction=direction, divergence="mse", temperature=0.2),
            info_nce_distill(0.2, 0.2, "mse", direction=direction),
            queries=True,
        )
        for direction in ("q2q", "d2d")
    },
    "score_kl, d2d, all candidates": Case(
        ScoreKL(teacher=TEACHER, direction="d2d", candidates="all", temperature=0.2, block=10),
        info_nce_distill(0.2, 0.2, direction="d2d", candidates="all"),
    ),
    "score_kl, given scores": given_scores(
        ScoreKL(targets="scores", similarity="dot", temperature=1), distill_kl(1, 1)
    ),
    "score_kl, given scores, teacher temperature left out": given_scores(
        ScoreKL(targets="scores", temperature=0.1), distill_kl(0.1, 1, "cosine")
    ),
    "score_kl, given scores, cosine": given_scores(
        ScoreKL(targets="scores", temperature=0.1, teacher_temperature=2), distill_kl(0.1, 2, "cosine")
    ),
    **{
        f"score_kl, given scores, logits of {size}": given_scores(
            ScoreKL(targets="scores", temperature=1 / size, teacher_temperature=1 / size),
            distill_kl(1 / size, 1 / size, "cosine"),
        )
        for size in (30, 600)
    },
    "score_kl, given scores, excluded from both": given_scores(
        ScoreKL(targets="scores", temperature=1, excluded_from="both"), distill_kl_without_excluded(1)
    ),
    "score_kl, given scores, cross-entropy": given_scores(
        ScoreKL(targets="scores", teacher_temperature=1, divergence="cross_entropy"),
        local_divergence("cross_entropy", 0.05, 1),
    ),
    "score_kl, given scores, mse": given_scores(
        ScoreKL(targets="scores", temperature=0.2, teacher_temperature=1, divergence="mse"),
        local_divergence("mse", 0.2, 1),
    ),
}

MARGIN = {
    "score_margin_mse": Case(ScoreMarginMSE(teacher=TEACHER), margin_mse("vectors"), queries=True, negatives=True),
    "score_margin_mse, cosine": Case(
        ScoreMarginMSE(teacher=TEACHER, similarity="cosine"),
        margin_mse("vectors", "cosine"),
        queries=True,
        negatives=True,
    ),
    **{
        f"score_margin_mse, given {given}": Case(
            ScoreMarginMSE(targets="scores"), margin_mse("scores"), queries=True, negatives=True, scores=scores
        )
        for given, scores in (("scores", "documents"), ("margins", "margins"))
    },
}

RANK = {
    "score_rank": Case(ScoreRank(teacher=TEACHER), pair_order()),
    "score_rank, margin 0.5": Case(ScoreRank(teacher=TEACHER, margin=0.5), pair_order(0.5)),
    "score_rank, 3 pairs": Case(ScoreRank(teacher=TEACHER, pairs=3), pair_order(pairs=3)),
    "score_rank, dot": Case(ScoreRank(teacher=TEACHER, similarity="dot"), pair_order(similarity="dot")),
    "score_rank, all candidates": Case(ScoreRank(teacher=TEACHER, candidates="all"), pair_order(candidates="all")),
}

M3 = {
    "m3_kd": Case(M3KD(), m3_kd(), queries=True, scores="documents"),
    "m3_kd, temperatures": Case(
        M3KD(temperature=0.1, teacher_temperature=0.5, block=10), m3_kd(0.1, 0.5), queries=True, scores="documents"
    ),
    **{
        f"m3_kd, logits of {size}": Case(
            M3KD(temperature=1 / size, teacher_temperature=1 / size),
            m3_kd(1 / size, 1 / size),
            queries=True,
            scores="documents",
        )
        for size in (30, 600)
    },
    "m3_kd, learned temperature": Case(
        M3KD(temperature=Learned(start=0.05)), m3_kd(None), queries=True, scores="documents"
    ),
    "m3_kd, dot": Case(
        M3KD(similarity="dot", temperature=1), m3_kd(1, similarity="dot"), queries=True, scores="documents"
    ),
    "m3_kd, from vectors": Case(
        M3KD(teacher=TEACHER, targets="vectors", temperature=0.05, teacher_temperature=0.1, block=24),
        m3_kd(0.05, 0.1, targets="vectors"),
        queries=True,
    ),
}

CASES: dict[str, Case] = {**ZSCORE, **MSE, **KL, **MARGIN, **RANK, **M3}
