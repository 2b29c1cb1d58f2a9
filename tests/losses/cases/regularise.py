"""Regularisers beside sentence-transformers."""

from collections.abc import Callable
from typing import Any

from jdistill.losses import L1, Flops, SpreadOut
from tests.losses.cases.base import Case, Given, Tensor


def spread_out(**options: Any) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss

        loss = GlobalOrthogonalRegularizationLoss(None, **options)
        return sum(loss.compute_loss_from_embeddings(given.student.columns()).values())

    return reference


def chosen(given: Given, texts: str) -> Tensor:
    """As SpladeLoss lays them out for its regularisers."""
    import torch

    queries, documents = given.student
    if texts == "queries":
        return queries
    return torch.cat(documents if texts == "documents" else given.student.columns())


def flops(texts: str = "documents", threshold: int | None = None) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        import torch
        from sentence_transformers.sparse_encoder.losses import FlopsLoss

        x = chosen(given, texts)
        # FlopsLoss is for vectors without negative elements; it does not take sizes itself.
        return FlopsLoss(None, threshold).compute_loss_from_embeddings(torch.where(x < 0, -x, x))

    return reference


def l1(texts: str = "documents", threshold: int | None = None) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        x = chosen(given, texts)
        if threshold is not None:
            x = x * ((x != 0).sum(dim=1, keepdim=True) > threshold)
        return x.abs().sum(dim=1).mean()

    return reference


CASES = {
    "spread_out": Case(SpreadOut(), spread_out()),
    "spread_out, mean only": Case(SpreadOut(second_moment_weight=0), spread_out(second_moment_weight=0)),
    "spread_out, second moment only": Case(
        SpreadOut(mean_weight=0, aggregation="sum"), spread_out(mean_weight=0, aggregation="sum")
    ),
    "spread_out, weights": Case(
        SpreadOut(mean_weight=0.5, second_moment_weight=3), spread_out(mean_weight=0.5, second_moment_weight=3)
    ),
    "flops": Case(Flops(), flops()),
    "flops, queries": Case(Flops(texts="queries"), flops("queries"), queries=True),
    "flops, all": Case(Flops(texts="all"), flops("all")),
    "flops, threshold": Case(Flops(threshold=11), flops(threshold=11)),
    "l1": Case(L1(), l1()),
    "l1, queries": Case(L1(texts="queries"), l1("queries"), queries=True),
    "l1, all": Case(L1(texts="all"), l1("all")),
    "l1, threshold": Case(L1(threshold=11), l1(threshold=11)),
}
