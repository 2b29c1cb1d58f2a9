"""Losses on labelled pairs and triplets beside sentence-transformers."""

from collections.abc import Callable

from jdistill.losses import AnglE, CoSENT, CosineSimilarity, Triplet
from tests.losses.cases.base import Case, Given, Tensor


def cosent(temperature: float = 0.05, similarity: str = "cosine") -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import CoSENTLoss
        from sentence_transformers.util import pairwise_cos_sim, pairwise_dot_score

        function = {"cosine": pairwise_cos_sim, "dot": pairwise_dot_score}[similarity]
        loss = CoSENTLoss(None, scale=1 / temperature, similarity_fct=function)
        return loss.compute_loss_from_embeddings(given.student.columns(), given.scores)

    return reference


def angle(temperature: float = 0.05) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import AnglELoss

        loss = AnglELoss(None, scale=1 / temperature)
        return loss.compute_loss_from_embeddings(given.student.columns(), given.scores)

    return reference


def cosine_similarity(penalty: str = "MSELoss") -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
        from torch import nn

        loss = CosineSimilarityLoss(None, loss_fct=getattr(nn, penalty)())
        return loss.compute_loss_from_embeddings(given.student.columns(), given.scores)

    return reference


def triplet(metric: str = "EUCLIDEAN", margin: float = 5.0) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import TripletDistanceMetric, TripletLoss

        loss = TripletLoss(None, getattr(TripletDistanceMetric, metric), triplet_margin=margin)
        query, document, *negatives = given.student.columns()
        values = [loss.compute_loss_from_embeddings([query, document, x], None) for x in negatives]
        return sum(values) / len(values)

    return reference


CASES = {
    "cosent": Case(CoSENT(), cosent(), queries=True, scores="pair"),
    "cosent, temperature 0.01": Case(CoSENT(temperature=0.01), cosent(0.01), queries=True, scores="pair"),
    "cosent, dot": Case(CoSENT(similarity="dot", temperature=1.0), cosent(1.0, "dot"), queries=True, scores="pair"),
    "angle": Case(AnglE(), angle(), queries=True, scores="pair"),
    "angle, temperature 0.01": Case(AnglE(temperature=0.01), angle(0.01), queries=True, scores="pair"),
    "angle, without labels": Case(AnglE(), angle(), queries=True, negatives=True),
    "cosine_similarity": Case(CosineSimilarity(), cosine_similarity(), queries=True, scores="pair"),
    "cosine_similarity, absolute": Case(
        CosineSimilarity(penalty="absolute"), cosine_similarity("L1Loss"), queries=True, scores="pair"
    ),
    "triplet": Case(Triplet(), triplet(), queries=True, negatives=True),
    "triplet, margin 0.1": Case(Triplet(margin=0.1), triplet(margin=0.1), queries=True, negatives=True),
    "triplet, cosine": Case(
        Triplet(distance="cosine", margin=0.2), triplet("COSINE", 0.2), queries=True, negatives=True
    ),
}
