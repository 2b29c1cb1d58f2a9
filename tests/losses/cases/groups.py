"""Losses that mine a batch for hard texts of the same or another class beside sentence-transformers."""

from collections.abc import Callable
from functools import partial

from jdistill.losses import BatchTriplet, MegaBatchMargin
from tests.losses.cases.base import Case, Given, Tensor


def batch_triplet(name: str, distance: str = "euclidean", margin: float | None = 5.0) -> Callable[[Given], Tensor]:
    """The peer's loss of that name, of the first text of each row."""

    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer import losses

        functions = losses.BatchHardTripletLossDistanceFunction
        metric = {
            "euclidean": functions.euclidean_distance,
            "squared_euclidean": partial(functions.euclidean_distance, squared=True),
            "cosine": functions.cosine_distance,
        }[distance]
        options = {} if margin is None else {"margin": margin}
        loss = getattr(losses, name)(None, distance_metric=metric, **options)
        return loss.compute_loss_from_embeddings(given.student.columns()[:1], given.labels)

    return reference


def mega_batch_margin(positive: float = 0.8, negative: float = 0.3) -> Callable[[Given], Tensor]:
    """MegaBatchMarginLoss; with hard negatives, which it does not take, the same written out in torch."""

    def reference(given: Given) -> Tensor:
        import torch
        from sentence_transformers.sentence_transformer.losses import MegaBatchMarginLoss
        from sentence_transformers.util import cos_sim

        queries, documents, *negatives = given.student.columns()
        if not negatives:
            loss = MegaBatchMarginLoss(None, positive, negative, use_mini_batched_version=False)
            return loss.calculate_loss([[queries], [documents]])
        cosines = cos_sim(queries, torch.cat([documents, *negatives]))
        own = torch.eye(*cosines.shape, dtype=torch.bool)
        hardest = cosines.masked_fill(own, -torch.inf).max(1).values
        return ((positive - cosines[own]).relu() + (hardest - negative).relu()).mean()

    return reference


MINING = {
    "hard": "BatchHardTripletLoss",
    "semi_hard": "BatchSemiHardTripletLoss",
    "all": "BatchAllTripletLoss",
}

CASES = {
    "batch_triplet": Case(BatchTriplet(), batch_triplet("BatchHardTripletLoss"), labels=True),
    **{
        f"batch_triplet, {mining}, {distance}, margin {margin:g}": Case(
            BatchTriplet(mining=mining, distance=distance, margin=margin),
            batch_triplet(name, distance, margin),
            labels=True,
        )
        for mining, name in MINING.items()
        for distance, margin in (("euclidean", 5.0), ("euclidean", 0.2), ("squared_euclidean", 0.5), ("cosine", 0.3))
    },
    **{
        f"batch_triplet, soft margin, {distance}": Case(
            BatchTriplet(margin="soft", distance=distance),
            batch_triplet("BatchHardSoftMarginTripletLoss", distance, None),
            labels=True,
        )
        for distance in ("euclidean", "cosine")
    },
    "mega_batch_margin": Case(MegaBatchMargin(), mega_batch_margin(), queries=True),
    "mega_batch_margin, other margins": Case(
        MegaBatchMargin(positive_margin=0.5, negative_margin=-0.2), mega_batch_margin(0.5, -0.2), queries=True
    ),
}
