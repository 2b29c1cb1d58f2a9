"""`embed_*` beside sentence-transformers' EmbedDistillLoss."""

from collections.abc import Callable

from jdistill import losses
from tests.losses.cases.base import SECOND, TEACHER, Case, Given, Tensor


def embed_distill(metric: str) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

        loss = EmbedDistillLoss(None, metric)
        return loss.compute_loss_from_embeddings(given.projected().columns(), given.teacher.columns())

    return reference


def of_queries(metric: str) -> Callable[[Given], Tensor]:
    """The label is one vector per row, as `forward` spreads it over the columns."""

    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

        columns = [{"sentence_embedding": x} for x in given.projected().columns()]
        return EmbedDistillLoss(lambda features: features, metric)(columns, given.teacher.queries)

    return reference


def kl_over_dimensions(temperature: float) -> Callable[[Given], Tensor]:
    def reference(given: Given) -> Tensor:
        import torch
        from torch.nn.functional import kl_div, log_softmax, softmax

        columns = zip(given.projected().columns(), given.teacher.columns(), strict=True)
        values = [
            kl_div(log_softmax(s / temperature, -1), softmax(t / temperature, -1), reduction="batchmean")
            for s, t in columns
        ]
        return torch.stack(values).mean() * temperature**2

    return reference


CASES = {
    "embed_cosine": Case(losses.EmbedCosine(teacher=TEACHER), embed_distill("cosine")),
    "embed_cosine, equal widths": Case(losses.EmbedCosine(teacher=TEACHER), embed_distill("cosine"), projection=False),
    "embed_cosine, two teachers": Case(losses.EmbedCosine(teacher=(TEACHER, SECOND)), embed_distill("cosine")),
    "embed_l2": Case(losses.EmbedL2(teacher=TEACHER), embed_distill("l2")),
    "embed_l2, two teachers": Case(losses.EmbedL2(teacher=(SECOND, TEACHER)), embed_distill("l2")),
    "embed_mse": Case(losses.EmbedMSE(teacher=TEACHER), embed_distill("mse")),
    **{
        f"{kind}, target query": Case(cls(teacher=TEACHER, target="query"), of_queries(metric), queries=True)
        for kind, cls, metric in (
            ("embed_cosine", losses.EmbedCosine, "cosine"),
            ("embed_l2", losses.EmbedL2, "l2"),
            ("embed_mse", losses.EmbedMSE, "mse"),
        )
    },
    "embed_mse, target query, equal widths": Case(
        losses.EmbedMSE(teacher=TEACHER, target="query"), of_queries("mse"), queries=True, projection=False
    ),
    "embed_kl": Case(losses.EmbedKL(teacher=TEACHER), kl_over_dimensions(1.0)),
    "embed_kl, temperature 0.2": Case(losses.EmbedKL(teacher=TEACHER, temperature=0.2), kl_over_dimensions(0.2)),
    # Of 600, most rows saturate and have no gradient to compare: tests/losses/test_softmax.py has those.
    "embed_kl, logits of 30": Case(losses.EmbedKL(teacher=TEACHER, temperature=1 / 30), kl_over_dimensions(1 / 30)),
}
