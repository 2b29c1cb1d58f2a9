"""Citations for the model card: the papers behind losses, their options and training methods, as BibTeX."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jdistill.export.papers import SENTENCE_BERT, bibtex

Options = Mapping[str, Any]
"""A loss as in the config: its `kind` and its options."""

OF_KIND: Mapping[str, tuple[str, ...]] = {
    "embed_cosine": ("arXiv:2301.12005",),
    "embed_l2": ("arXiv:2301.12005",),
    "embed_mse": ("arXiv:2004.09813",),
    "embed_kl": ("arXiv:1503.02531",),
    "hidden": (),
    "info_nce": ("arXiv:1807.03748",),
    "teacher_info_nce": ("arXiv:1910.10699", "arXiv:1807.03748"),
    "sigmoid": ("arXiv:2303.15343",),
    "mega_batch_margin": ("doi:10.18653/v1/P18-1042",),
    "score_mse": ("arXiv:2412.19048",),
    "score_kl": ("arXiv:1503.02531",),
    "score_margin_mse": ("arXiv:2010.02666",),
    "score_rank": ("arXiv:2412.19048",),
    "m3_kd": ("arXiv:2402.03216",),
    "cosent": ("doi:10.1109/TASLP.2024.3402087", "https://kexue.fm/archives/8847"),
    "angle": ("doi:10.18653/v1/2024.acl-long.101",),
    "cosine_similarity": (SENTENCE_BERT,),
    "triplet": ("arXiv:1503.03832",),
    "batch_triplet": ("arXiv:1703.07737",),
    "contrastive": ("doi:10.1109/CVPR.2006.100",),
    "label_softmax": (SENTENCE_BERT,),
    "spread_out": ("arXiv:1708.06320",),
    "flops": ("arXiv:2004.05665",),
    "l1": ("arXiv:2107.05720",),
    "matryoshka": ("arXiv:2205.13147",),
    "adaptive_layer": ("arXiv:2402.14776",),
}
"""Kind of a loss -> papers cited for any options; those of `hidden` depend on its options."""

WITHOUT_PAPER = ("online_contrastive", "score_zscore")
"""Kinds of loss without a paper."""

_BY_OPTION: tuple[tuple[str, Callable[[Options], bool], str], ...] = (
    ("hidden", lambda loss: loss.get("distance", "cosine") == "cosine", "arXiv:1910.01108"),
    ("hidden", lambda loss: loss.get("distance", "cosine") != "cosine", "arXiv:1909.10351"),
    ("info_nce", lambda loss: bool(_guided(loss)), "arXiv:2402.16829"),
    ("info_nce", lambda loss: any(each.get("margin", 0) != 0 for each in _guided(loss)), "arXiv:2407.15831"),
    ("info_nce", lambda loss: _joint(loss) and len(loss.get("directions", ())) > 1, "arXiv:2308.03281"),
    ("info_nce", lambda loss: loss.get("hardness") in ("in_batch", "all"), "arXiv:2503.04812"),
    ("info_nce", lambda loss: loss.get("hardness") in ("hard", "all"), "arXiv:2509.20354"),
    ("info_nce", lambda loss: isinstance(loss.get("temperature"), Mapping), "arXiv:2103.00020"),
    ("score_kl", lambda loss: loss.get("targets") == "scores", "arXiv:2010.11386"),
    ("batch_triplet", lambda loss: loss.get("mining") == "semi_hard", "arXiv:1503.03832"),
    ("spread_out", lambda loss: loss.get("mean_weight") == 0, "arXiv:2509.20354"),
    ("flops", lambda loss: loss.get("threshold") is not None, "arXiv:2504.14839"),
    ("l1", lambda loss: loss.get("threshold") is not None, "arXiv:2504.14839"),
)
"""Kind of a loss, condition on its options, and the paper to cite if it holds."""

OF_METHOD = {
    "grad_cache": "arXiv:2101.06983",
    "lora": "arXiv:2106.09685",
    "latent_attention": "arXiv:2405.17428",
    "sparse": "arXiv:2107.05720",
    "sparse_vocabulary": "arXiv:2402.03216",
    "splade": "arXiv:2109.10086",
}
"""Training method, pooling or kind of student -> paper."""


def citations(losses: Iterable[Options], methods: Iterable[str] = ()) -> str:
    """BibTeX of Sentence-BERT and of the papers behind losses and methods, each once.

    Args:
      losses: each with its `kind` and options; nested losses, such as matryoshka's, are included.
      methods: keys of `OF_METHOD`.
    """
    found = [SENTENCE_BERT, *(paper for loss in losses for paper in papers_of(loss))]
    found += [OF_METHOD[method] for method in methods]
    return "\n\n".join(bibtex(paper) for paper in dict.fromkeys(found))


def papers_of(loss: Options) -> Iterator[str]:
    """Identifiers of the papers for a loss, its options, and nested losses."""
    kind = loss["kind"]
    yield from OF_KIND.get(kind, ())
    yield from (paper for of, applies, paper in _BY_OPTION if of == kind and applies(loss))
    for inner in loss.values():
        if isinstance(inner, Mapping) and "kind" in inner:
            yield from papers_of(inner)


def _guided(loss: Options) -> list[Options]:
    """The filters of false negatives that use a model as guide."""
    return [each for each in loss.get("false_negatives", ()) if each.get("by") in ("teacher", "student")]


def _joint(loss: Options) -> bool:
    return loss.get("partition", "joint") == "joint"
