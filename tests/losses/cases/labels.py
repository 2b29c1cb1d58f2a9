"""Losses on labelled pairs and triplets beside sentence-transformers."""

from collections.abc import Callable

from jdistill.losses import AnglE, Contrastive, CoSENT, CosineSimilarity, LabelSoftmax, OnlineContrastive, Triplet
from tests.losses.cases.base import CLASSES, WIDTH, Case, Given, Tensor


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


def of_pairs(name: str, metric: str = "COSINE_DISTANCE", margin: float = 0.5) -> Callable[[Given], Tensor]:
    """ContrastiveLoss or OnlineContrastiveLoss."""

    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer import losses

        loss = getattr(losses, name)(None, getattr(losses.SiameseDistanceMetric, metric), margin)
        loss._checked_labels = True  # warns of others than 0 and 1, which it takes
        return loss.compute_loss_from_embeddings(given.student.columns()[:2], given.scores[:, 0])

    return reference


def label_softmax(vectors: bool = True, difference: bool = True, product: bool = False) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        import torch
        from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

        class Known(torch.nn.Module):
            """A model that has encoded already."""

            device = "cpu"

            def forward(self, features: dict) -> dict:
                return features

        kernel, bias = given.parameters["kernel"], given.parameters["bias"]
        loss = SoftmaxLoss(Known(), kernel.shape[1], kernel.shape[2], vectors, difference, product)
        weights = {"classifier.weight": kernel.reshape(-1, kernel.shape[2]).T, "classifier.bias": bias}
        columns = [{"sentence_embedding": x} for x in given.student.columns()[:2]]
        return torch.func.functional_call(loss, weights, (columns, given.labels))

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
    "triplet, manhattan": Case(
        Triplet(distance="manhattan", margin=1.0), triplet("MANHATTAN", 1.0), queries=True, negatives=True
    ),
    **{
        f"{label}{option}": Case(
            cls(distance=distance, margin=margin), of_pairs(name, metric, margin), queries=True, scores="binary"
        )
        for label, cls, name in (
            ("contrastive", Contrastive, "ContrastiveLoss"),
            ("online_contrastive", OnlineContrastive, "OnlineContrastiveLoss"),
        )
        for option, distance, metric, margin in (
            ("", "cosine", "COSINE_DISTANCE", 0.5),
            (", margin 1.2", "cosine", "COSINE_DISTANCE", 1.2),
            (", euclidean", "euclidean", "EUCLIDEAN", 1.5),
            (", manhattan", "manhattan", "MANHATTAN", 5.0),
        )
    },
    "contrastive, labels between": Case(Contrastive(), of_pairs("ContrastiveLoss"), queries=True, scores="pair"),
    "label_softmax": Case(LabelSoftmax(classes=CLASSES, width=WIDTH), label_softmax(), queries=True, labels=True),
    "label_softmax, product": Case(
        LabelSoftmax(classes=CLASSES, width=WIDTH, features=("difference", "vectors", "product")),
        label_softmax(product=True),
        queries=True,
        labels=True,
    ),
    "label_softmax, difference": Case(
        LabelSoftmax(classes=CLASSES + 2, width=WIDTH, features=("difference",)),
        label_softmax(vectors=False),
        queries=True,
        labels=True,
    ),
}
