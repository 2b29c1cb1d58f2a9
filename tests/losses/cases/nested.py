"""`hidden`, and losses that hold others, beside sentence-transformers or written out where it needs a whole model."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jdistill.losses import (
    AdaptiveLayer,
    CoSENT,
    EmbedCosine,
    EmbedMSE,
    Hidden,
    InfoNCE,
    Matryoshka,
    ScoreZscore,
    TeacherFilter,
)
from jdistill.losses.nested.base import draw
from tests.losses.cases.base import SECOND, TEACHER, Case, Given, Tensor, Texts
from tests.losses.cases.contrast import (
    BY_TEACHER,
    BY_TEXT,
    TAUGHT,
    equal_texts,
    gist,
    multiple_negatives,
    written_out,
)
from tests.losses.cases.embedding import embed_distill
from tests.losses.cases.labels import cosent
from tests.losses.cases.scores import whole_matrix_zscore

Reference = Callable[[Given], Tensor]

DIMS = (12, 7, 3)
KEY = jax.random.fold_in(jax.random.key(7), 0)
"""The key of the LossInputs that tests hand to a loss."""


def at_layer(layer: int, reference: Reference) -> Reference:
    """The reference on the student's vectors of that layer."""
    return lambda given: reference(given._replace(student=given.at_layer[layer]))


def each(function: Callable[[Tensor], Tensor], texts: Texts) -> Texts:
    queries, documents = texts
    return Texts(None if queries is None else function(queries), [function(x) for x in documents])


def unit(dim: int) -> Callable[[Tensor], Tensor]:
    from torch.nn.functional import normalize

    return lambda x: normalize(x[..., :dim], dim=-1)


def over_prefixes(
    reference: Reference,
    dims: Sequence[int] = DIMS,
    weights: Sequence[float] = (1.0, 1.0, 1.0),
    teacher: Callable[[Texts, int], Texts] = lambda texts, dim: texts,
) -> Reference:
    """The loss of each prefix, written out: through a projection, a prefix has the first rows of the kernel."""

    def value(given: Given, dim: int) -> Tensor:
        projection = given.projection and (given.projection[0][:dim], given.projection[1])
        seen = given._replace(student=each(unit(dim), given.student), projection=projection)
        if given.teacher is not None:
            seen = seen._replace(teacher=teacher(given.teacher, dim))
        seen = seen._replace(at_layer={k: each(unit(dim), x) for k, x in given.at_layer.items()})
        return reference(seen)

    return lambda given: sum(w * value(given, dim) for dim, w in zip(dims, weights, strict=True))


def cut_teacher(texts: Texts, dim: int) -> Texts:
    return each(lambda x: x[..., :dim], texts)


def renormalised_teacher(texts: Texts, dim: int) -> Texts:
    return each(unit(dim), texts)


def matryoshka_loss(inner: Callable, written: Reference, weights: Sequence[float] | None = None) -> Reference:
    """sentence-transformers' MatryoshkaLoss on a model whose inputs are the vectors.

    It takes each prefix of the one before, scaled already, so that the gradient of a zero vector is divided by eps once
    per prefix, up to 1e36. For batches with one: the same written out, which scales once.
    """

    def reference(given: Given) -> Tensor:
        import torch
        from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

        class Identity(torch.nn.Module):
            def forward(self, features: dict) -> dict:
                return dict(features)

            def get_embedding_dimension(self) -> int:
                return max(DIMS)

        if not all(bool(x.any(dim=-1).all()) for x in given.student.columns()):
            return written(given)
        model: Any = Identity()
        loss = MatryoshkaLoss(model, inner(model), list(DIMS), weights)
        labels = None if given.teacher is None else torch.stack(given.teacher.columns(), dim=1)
        return loss([{"sentence_embedding": x} for x in given.student.columns()], labels)

    return reference


def embed_distill_of(metric: Any) -> Callable:
    def inner(model):
        from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

        return EmbedDistillLoss(model, metric)

    return inner


def multiple_negatives_of(model):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(model)


def adaptive_layers(
    at: Callable[[int], Reference],
    *,
    layers: Sequence[int] = (0, 1, 2),
    last: float = 1.0,
    prior: float = 1.0,
    kl: float = 1.0,
    temperature: float = 0.3,
    weighting: str = "uniform",
) -> Reference:
    """AdaptiveLayerLoss written out; `at` gives the loss at a layer, of which the last is number 3."""

    def reference(given: Given) -> Tensor:
        import torch
        from torch.nn.functional import kl_div, log_softmax, softmax

        final = softmax(torch.cat(given.student.columns()).detach() / temperature, dim=-1)
        total = last * at(3)(given)
        for layer in layers:
            here = given.at_layer[layer]
            weight = {"uniform": 1, "log": 1 / (1 + math.log(1 + layer)), "linear": 1 / (1 + layer)}[weighting]
            total = total + prior * weight * at(layer)(given._replace(student=here)) / len(layers)
            ours = log_softmax(torch.cat(here.columns()) / temperature, dim=-1)
            total = total + kl * temperature * kl_div(ours, final, reduction="batchmean")
        return total

    return reference


def always(reference: Reference) -> Callable[[int], Reference]:
    return lambda layer: reference


def drawn(key: jax.Array, of: int, count: int) -> list[int]:
    """What a nested loss with this key draws."""
    return draw(jax.random.split(key)[0], of, count).tolist()


def drawn_dims(key: jax.Array, count: int) -> list[int]:
    return [DIMS[i] for i in drawn(key, len(DIMS), count)]


def two_dimensional(given: Given) -> Tensor:
    """One layer and one prefix a step, the prefix drawn anew at each layer."""

    def at(layer: int) -> Reference:
        key = jax.random.fold_in(jax.random.split(KEY)[1], layer)
        return over_prefixes(multiple_negatives(0.05, "cosine"), drawn_dims(key, 1), (1.0,))

    return adaptive_layers(at, layers=drawn(KEY, 3, 1))(given)


def two_of_three(reference: Reference) -> Reference:
    return lambda given: over_prefixes(reference, drawn_dims(KEY, 2), (1.0, 1.0))(given)


MANY = InfoNCE(directions=("q2d", "q2q", "d2q", "d2d"), false_negatives=(BY_TEXT, BY_TEACHER))

COSINE, MNRL = embed_distill("cosine"), multiple_negatives(0.05, "cosine")

CASES: dict[str, Case] = {
    "hidden": Case(Hidden(layer=1, teacher=TEACHER), at_layer(1, COSINE)),
    "hidden, l2": Case(Hidden(layer=0, distance="l2", teacher=TEACHER), at_layer(0, embed_distill("l2"))),
    "hidden, mse": Case(
        Hidden(layer=2, distance="mse", teacher=TEACHER), at_layer(2, embed_distill("mse")), projection=False
    ),
    "matryoshka": Case(Matryoshka(loss=EmbedCosine(), dims=(3, 12, 7), teacher=TEACHER), over_prefixes(COSINE)),
    "matryoshka, two teachers": Case(
        Matryoshka(loss=EmbedMSE(), dims=DIMS, teacher=(TEACHER, SECOND)), over_prefixes(embed_distill("mse"))
    ),
    "matryoshka, equal widths": Case(
        Matryoshka(loss=EmbedMSE(), dims=(3, 12, 7), weights=(0.5, 1, 2), renormalise_teacher=False, teacher=TEACHER),
        matryoshka_loss(
            embed_distill_of("mse"),
            over_prefixes(embed_distill("mse"), weights=(1, 2, 0.5), teacher=cut_teacher),
            weights=(1, 2, 0.5),
        ),
        projection=False,
    ),
    "matryoshka, renormalised teacher": Case(
        Matryoshka(loss=EmbedMSE(), dims=DIMS, teacher=TEACHER),
        over_prefixes(embed_distill("mse"), teacher=renormalised_teacher),
        projection=False,
    ),
    "matryoshka, hidden": Case(
        Matryoshka(loss=Hidden(layer=1), dims=DIMS, teacher=TEACHER), over_prefixes(at_layer(1, COSINE))
    ),
    "matryoshka, info_nce": Case(
        Matryoshka(loss=InfoNCE(), dims=(7, 12, 3)),
        matryoshka_loss(multiple_negatives_of, over_prefixes(MNRL)),
        queries=True,
    ),
    "matryoshka, info_nce, all directions, by text and teacher": Case(
        Matryoshka(loss=MANY, dims=DIMS, weights=(2.0, 1.0, 0.5), teacher=TEACHER),
        over_prefixes(written_out(MANY, equal_texts, TAUGHT), weights=(2.0, 1.0, 0.5)),
        queries=True,
    ),
    "matryoshka, info_nce, by teacher, two a step": Case(
        Matryoshka(
            loss=InfoNCE(false_negatives=(TeacherFilter(margin=0.05),)), dims=DIMS, dims_per_step=2, teacher=TEACHER
        ),
        two_of_three(gist("absolute", 0.05)),
        queries=True,
    ),
    "matryoshka, cosent": Case(
        Matryoshka(loss=CoSENT(), dims=DIMS), over_prefixes(cosent()), queries=True, scores="pair"
    ),
    "matryoshka, score_zscore": Case(
        Matryoshka(loss=ScoreZscore(), dims=DIMS, teacher=TEACHER), over_prefixes(whole_matrix_zscore())
    ),
    "adaptive_layer": Case(
        AdaptiveLayer(loss=EmbedCosine(), teacher=TEACHER),
        lambda given: adaptive_layers(always(COSINE), layers=drawn(KEY, 3, 1))(given),
    ),
    "adaptive_layer, all, log": Case(
        AdaptiveLayer(
            loss=InfoNCE(),
            layers_per_step=None,
            layer_weighting="log",
            last_layer_weight=2.0,
            prior_layers_weight=0.5,
            kl_div_weight=0.7,
            kl_temperature=0.6,
        ),
        adaptive_layers(always(MNRL), weighting="log", last=2.0, prior=0.5, kl=0.7, temperature=0.6),
        queries=True,
    ),
    "adaptive_layer, linear, two a step": Case(
        AdaptiveLayer(loss=ScoreZscore(), layers_per_step=2, layer_weighting="linear", teacher=TEACHER),
        lambda given: adaptive_layers(always(whole_matrix_zscore()), layers=drawn(KEY, 3, 2), weighting="linear")(
            given
        ),
    ),
    "adaptive_layer, matryoshka, one of each a step": Case(
        AdaptiveLayer(loss=Matryoshka(loss=InfoNCE(), dims=DIMS, dims_per_step=1)), two_dimensional, queries=True
    ),
}
