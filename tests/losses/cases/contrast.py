"""Contrastive losses beside sentence-transformers, and beside torch where ours differ from it by design.

The differences: a text is never its own negative, whatever a guide thinks of it; documents against documents (d2d) may
include hard negatives under a guide too; a guide may be the student, at a margin that changes; and texts are compared.
"""

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from jdistill.losses import (
    InfoNCE,
    LossConfig,
    Sigmoid,
    StudentFilter,
    TeacherFilter,
    TeacherInfoNCE,
    TextFilter,
)
from jdistill.losses.schedule import Ramp
from jdistill.losses.temperature import Learned
from tests.losses.cases.base import SECOND, TEACHER, Case, Given, Tensor, Texts

Reference = Callable[[Given], Tensor]
Mask = Callable[[Given, str, str], Tensor]
"""Which candidates of side b a filter leaves out for row texts of side a, each `"q"` or `"d"`."""

ALL = ("q2d", "q2q", "d2q", "d2d")
SYMMETRIC = ("q2d", "d2q")
GIST = ("q2d", "q2q", "d2d")
NAMES = {"q2d": "query_to_doc", "q2q": "query_to_query", "d2q": "doc_to_query", "d2d": "doc_to_doc"}
MODES = {"in_batch": "in_batch_negatives", "hard": "hard_negatives", "all": "all_negatives", "none": None}


def multiple_negatives_like(loss: InfoNCE) -> Reference:
    """sentence-transformers' MultipleNegativesRankingLoss with the same options."""

    def reference(given: Given) -> Tensor:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from sentence_transformers.util import cos_sim, dot_score

        theirs = MultipleNegativesRankingLoss(
            None,
            scale=1 / temperature(loss, given),
            similarity_fct={"cosine": cos_sim, "dot": dot_score}[loss.similarity],
            directions=tuple(NAMES[direction] for direction in loss.directions),
            partition_mode=loss.partition,
            hardness_mode=MODES[loss.hardness],
            hardness_strength=loss.strength,
        )
        return theirs.compute_loss_from_embeddings(given.student.columns(), None)

    return reference


def multiple_negatives(temperature: float, similarity: str) -> Reference:
    """The same for the two options that other files' rows have."""
    return multiple_negatives_like(InfoNCE(temperature=temperature, similarity=similarity))


def gist(strategy: str, margin: float, loss: InfoNCE | None = None) -> Reference:
    """sentence-transformers' GISTEmbedLoss or, of several hard negatives, CachedGISTEmbedLoss, given guide vectors."""

    loss = InfoNCE() if loss is None else loss

    def reference(given: Given) -> Tensor:
        import torch
        from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss, GISTEmbedLoss

        cosine = torch.nn.CosineSimilarity(dim=-1, eps=1e-12)

        def sim_matrix(a: Tensor, b: Tensor) -> Tensor:
            # Theirs guards lengths by 1e-8, which is the divisor of a zero vector's gradient; ours is F.normalize's.
            scores = cosine(a[:, None], b[None])
            if not a.requires_grad and a.data_ptr() == b.data_ptr():
                # Theirs leaves a text out of its own negatives only if the guide finds it closer than the pair.
                scores = scores.masked_fill(torch.eye(*scores.shape, dtype=torch.bool), torch.inf)
            return scores

        theirs = SimpleNamespace(
            sim_matrix=sim_matrix,
            temperature=temperature(loss, given),
            margin_strategy=strategy,
            margin=margin,
            contrast_anchors="q2q" in loss.directions,
            contrast_positives="d2d" in loss.directions,
            gather_across_devices=False,
            must_retokenize=False,
            model=lambda features: features["student"],
            guide=lambda features: features["guide"],
            mini_batch_size=1024,
            show_progress_bar=False,
            cross_entropy_loss=torch.nn.CrossEntropyLoss(),
        )
        student, guide = given.student.columns(), given.teacher.columns()
        if len(student) > 3:
            columns = ([[column] for column in side] for side in (student, guide))
            return CachedGISTEmbedLoss.calculate_loss(theirs, *columns)
        features = [
            {"student": {"sentence_embedding": s}, "guide": {"sentence_embedding": g.detach()}}
            for s, g in zip(student, guide, strict=True)
        ]
        return GISTEmbedLoss.forward(theirs, features, None)

    return reference


def written_out(loss: InfoNCE, *masks: Mask) -> Reference:
    """InfoNCE with filters."""

    def reference(given: Given) -> Tensor:
        import torch

        q, documents = given.student
        n, divisor = len(q), temperature(loss, given)
        rows, candidates = {"q": q, "d": documents[0]}, {"q": q, "d": torch.cat(documents)}
        eye, nothing = torch.eye(n, dtype=torch.bool), torch.zeros(n, n * (len(documents) - 1), dtype=torch.bool)
        pair = {"q": eye, "d": torch.cat([eye, nothing], dim=1)}
        own = {"q": eye, "d": eye.repeat(1, len(documents))}
        totals = []
        for a, _, b in loss.directions:
            logits = similarities(rows[a], candidates[b], loss.similarity) / divisor
            left_out = own[b] if a == b else torch.zeros_like(pair[b])
            if a == b == "d" and loss.documents_alone:
                left_out = left_out | (torch.arange(len(candidates[b])) >= n)
            for mask in masks:
                left_out = left_out | (mask(given, a, b) & ~pair[b])
            totals.append(logits.masked_fill(left_out, -torch.inf))
        own_pair = similarities(q, documents[0], loss.similarity).diagonal() / divisor
        if loss.partition == "per_direction":
            return torch.stack([x.logsumexp(dim=1) for x in totals]).mean(dim=0).sub(own_pair).mean()
        return torch.cat(totals, dim=1).logsumexp(dim=1).sub(own_pair).mean()

    return reference


def equal_texts(given: Given, a: str, b: str) -> Tensor:
    import torch

    queries, documents = given.ids
    candidates = {"q": queries, "d": documents.T.reshape(-1)}[b]
    return torch.stack([own[:, None] == candidates for own in (queries, documents[:, 0])]).any(dim=0)


def closer(guide: Callable[[Given], Texts], *, margin: float, relative: bool = False) -> Mask:
    def mask(given: Given, a: str, b: str) -> Tensor:
        import torch

        q, documents = guide(given)
        rows, candidates = {"q": q, "d": documents[0]}, {"q": q, "d": torch.cat(documents)}
        own_pair = similarities(q, documents[0], "cosine").diagonal()
        threshold = own_pair - margin * (own_pair.abs() if relative else 1)
        # Two products of equal vectors may differ in their last digit.
        return similarities(rows[a], candidates[b], "cosine").detach() > threshold.detach()[:, None] + 1e-12

    return mask


def teacher(given: Given) -> Texts:
    return given.teacher


def student(given: Given) -> Texts:
    return given.student


def similarities(a: Tensor, b: Tensor, similarity: str) -> Tensor:
    from torch.nn.functional import normalize

    return normalize(a, dim=-1) @ normalize(b, dim=-1).T if similarity == "cosine" else a @ b.T


def temperature(loss: LossConfig, given: Given) -> Tensor:
    """The fixed one, or the learned one within its limits."""
    return given.parameters["log_temperature"].exp() if isinstance(loss.temperature, Learned) else loss.temperature


def tokenlearn(loss: TeacherInfoNCE, directions: Sequence[str]) -> Reference:
    """Its ContrastiveLoss, for each direction."""

    def reference(given: Given) -> Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        ours, theirs = given.projected(), given.teacher
        pools = {"q": theirs.queries, "d": torch.cat(theirs.documents)}

        def opposed(texts: Tensor, pool: Tensor, offset: int = 0) -> Tensor:
            logits = similarities(texts, pool, "cosine") / temperature(loss, given)
            return cross_entropy(logits, torch.arange(len(texts)) + offset)

        def one(direction: str) -> Tensor:
            if direction == "d2d":
                n = len(ours.documents[0])
                columns = [opposed(x, pools["d"], n * i) for i, x in enumerate(ours.documents)]
                return torch.stack(columns).mean()
            a, _, b = direction
            return opposed({"q": ours.queries, "d": ours.documents[0]}[a], pools[b])

        there = [direction for direction in directions if direction == "d2d" or ours.queries is not None]
        return torch.stack([one(direction) for direction in there]).mean()

    return reference


def siglip(loss: Sigmoid) -> Reference:
    """Algorithm 1 of the paper, with hard negatives as further columns."""

    def reference(given: Given) -> Tensor:
        import torch
        from torch.nn.functional import logsigmoid

        q, documents = given.student
        scores = similarities(q, torch.cat(documents), "cosine")
        logits = scores / temperature(loss, given) + given.parameters["bias"]
        labels = 2 * torch.eye(*logits.shape, dtype=logits.dtype) - 1
        return -logsigmoid(labels * logits).sum() / len(q)

    return reference


def contrast(name: str, **options):
    """A row of the table for InfoNCE without filters."""
    loss = InfoNCE(**options)
    return {name: Case(loss, multiple_negatives_like(loss), queries=True)}


def guided(name: str, margin: float, *, relative: bool = False, **options):
    """A row for the teacher as guide, beside GIST."""
    strategy = "relative" if relative else "absolute"
    loss = InfoNCE(teacher=TEACHER, false_negatives=TeacherFilter(margin=margin, strategy=strategy), **options)
    return {name: Case(loss, gist(strategy, margin, loss), queries=True)}


def self_guided(name: str, guide: StudentFilter, *, progress: float, margin: float):
    """A row for the student as guide, which has that margin by then."""
    loss = InfoNCE(false_negatives=guide)
    return {name: Case(loss, written_out(loss, closer(student, margin=margin)), queries=True, progress=progress)}


def taught(name: str, *, projection: bool = True, **options):
    """A row of the table for TeacherInfoNCE; where no directions are named, plain texts have d2d alone."""
    loss = TeacherInfoNCE(**{"teacher": TEACHER, **options})
    directions = loss.directions or ("q2q", "d2d")
    return {name: Case(loss, tokenlearn(loss, directions), queries=bool(loss.directions), projection=projection)}


def pairwise(name: str, **options):
    """A row of the table for Sigmoid."""
    loss = Sigmoid(**options)
    return {name: Case(loss, siglip(loss), queries=True)}


def filtered(name: str, *masks: Mask, **options):
    """A row for the filters that leave out what the masks do."""
    loss = InfoNCE(**options)
    return {name: Case(loss, written_out(loss, *masks), queries=True)}


BY_TEXT, BY_TEACHER = TextFilter(), TeacherFilter(margin=0.05)
TAUGHT = closer(teacher, margin=0.05)
WARM = Learned(start=0.05)

DIRECTIONS = {
    k: v
    for size in (1, 2, 3)
    for more in itertools.combinations(("q2q", "d2q", "d2d"), size)
    for k, v in contrast(f"info_nce, q2d {' '.join(more)}", directions=("q2d", *more)).items()
}
HARDNESS = {
    k: v
    for mode in ("in_batch", "hard", "all")
    for strength in (5.0, 9.0)
    for k, v in contrast(f"info_nce, hardness {mode} {strength:g}", hardness=mode, strength=strength).items()
}
FALLING = StudentFilter(margin=Ramp(start=0.5, stop=0.0))
FALLING_THEN_CONSTANT = StudentFilter(margin=Ramp(start=1.0, stop=0.1, end=0.4))
LATE = StudentFilter(margin=0.1, begin=0.2)

CASES = {
    **contrast("info_nce"),
    **contrast("info_nce, temperature 0.01", temperature=0.01),
    **contrast("info_nce, temperature 1", temperature=1.0),
    **contrast("info_nce, learned temperature", temperature=WARM),
    **contrast("info_nce, dot", similarity="dot", temperature=1.0),
    **DIRECTIONS,
    **contrast("info_nce, per direction", partition="per_direction"),
    **contrast("info_nce, symmetric", directions=SYMMETRIC, partition="per_direction"),
    **contrast("info_nce, symmetric dot", directions=SYMMETRIC, partition="per_direction", similarity="dot"),
    **contrast("info_nce, all directions, dot", directions=ALL, similarity="dot", temperature=1.0),
    **contrast("info_nce, all directions, temperature 0.01", directions=ALL, temperature=0.01),
    **contrast("info_nce, all directions, blocks of 5", directions=ALL, block=5),
    **HARDNESS,
    **contrast("info_nce, dot, hardness all", similarity="dot", temperature=1.0, hardness="all", strength=5.0),
    **contrast(
        "info_nce, symmetric, learned temperature, hardness all, blocks of 7",
        directions=SYMMETRIC,
        partition="per_direction",
        temperature=WARM,
        hardness="all",
        strength=5.0,
        block=7,
    ),
    **guided("info_nce, by teacher", 0.0),
    **guided("info_nce, by teacher, GISTEmbedLoss's defaults", 0.0, directions=GIST, temperature=0.01),
    **guided("info_nce, by teacher, GIST, relative 0.05", 0.05, relative=True, directions=GIST, block=7),
    **guided("info_nce, by teacher, d2d of documents", 0.0, directions=("q2d", "d2d"), d2d_candidates="documents"),
    **guided("info_nce, by teacher, margin 0.05", 0.05),
    **guided("info_nce, by teacher, relative 0", 0.0, relative=True),
    **guided("info_nce, by teacher, relative 0.05", 0.05, relative=True),
    **guided("info_nce, by teacher, relative 0.95", 0.95, relative=True, block=7),
    **filtered(
        "info_nce, by teacher, d2d of all",
        TAUGHT,
        false_negatives=BY_TEACHER,
        teacher=TEACHER,
        directions=("q2d", "d2d"),
        d2d_candidates="all",
    ),
    **filtered("info_nce, all directions, d2d of documents", directions=ALL, d2d_candidates="documents", block=7),
    **filtered(
        "info_nce, by two teachers, q2q",
        TAUGHT,
        false_negatives=BY_TEACHER,
        teacher=(TEACHER, SECOND),
        directions=("q2d", "q2q"),
    ),
    **filtered(
        "info_nce, by teacher, symmetric",
        TAUGHT,
        false_negatives=BY_TEACHER,
        teacher=TEACHER,
        directions=SYMMETRIC,
        partition="per_direction",
    ),
    **self_guided("info_nce, by student", StudentFilter(), progress=0.0, margin=0.0),
    **self_guided("info_nce, by student, falling, at the start", FALLING, progress=0.0, margin=0.5),
    **self_guided("info_nce, by student, falling, later", FALLING, progress=0.25, margin=0.375),
    **self_guided("info_nce, by student, falling, at 0.3", FALLING_THEN_CONSTANT, progress=0.3, margin=0.325),
    **self_guided("info_nce, by student, then constant", FALLING_THEN_CONSTANT, progress=0.7, margin=0.1),
    **self_guided("info_nce, by student, before it begins", LATE, progress=0.1, margin=-9.0),
    **self_guided("info_nce, by student, after it began", LATE, progress=0.2, margin=0.1),
    **filtered(
        "info_nce, by student, relative, dot, d2d",
        closer(student, margin=0.2, relative=True),
        false_negatives=StudentFilter(margin=0.2, strategy="relative"),
        directions=("q2d", "d2d"),
        similarity="dot",
        temperature=1.0,
    ),
    **filtered(
        "info_nce, by student, all directions",
        closer(student, margin=0.2),
        false_negatives=StudentFilter(margin=0.2),
        directions=ALL,
    ),
    **filtered("info_nce, by text", equal_texts, false_negatives=BY_TEXT),
    **filtered("info_nce, by text, all directions", equal_texts, false_negatives=BY_TEXT, directions=ALL, block=7),
    **filtered(
        "info_nce, by text, symmetric",
        equal_texts,
        false_negatives=BY_TEXT,
        directions=SYMMETRIC,
        partition="per_direction",
    ),
    **filtered(
        "info_nce, by text, teacher and student",
        equal_texts,
        TAUGHT,
        closer(student, margin=-0.2),
        false_negatives=(BY_TEXT, BY_TEACHER, StudentFilter(margin=-0.2)),
        teacher=TEACHER,
        directions=("q2d", "q2q"),
        temperature=WARM,
    ),
    **taught("teacher_info_nce"),
    **taught("teacher_info_nce, without projection", projection=False),
    **taught("teacher_info_nce, two teachers", teacher=(TEACHER, SECOND)),
    **taught("teacher_info_nce, q2d", directions=("q2d",)),
    **taught("teacher_info_nce, towers", directions=("q2q", "d2d", "q2d"), temperature=0.2),
    **taught("teacher_info_nce, all directions", directions=ALL, temperature=Learned(start=0.3), block=7),
    **pairwise("sigmoid"),
    **pairwise("sigmoid, fixed temperature", temperature=0.05, bias=-2.0),
    **pairwise("sigmoid, blocks of 7", temperature=Learned(start=0.5), bias=0.0, block=7),
}
