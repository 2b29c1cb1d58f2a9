"""Citations follow losses, poolings and options, and agree with the sources that docstrings name."""

import inspect
import re
import sys

import pytest

from jdistill.losses import LEAF_LOSSES, AdaptiveLayer, LossConfig, Matryoshka, temperature
from jdistill.losses.contrast import false_negatives
from jdistill.losses.scores import listwise
from jdistill.papers import PAPERS, SENTENCE_BERT, Paper, bibtex, citations
from jdistill.student.pooling import LatentAttention, SparseVocabulary, Splade

CLASSES: dict[str, type[LossConfig]] = {
    cls.model_fields["kind"].default: cls for cls in (*LEAF_LOSSES, Matryoshka, AdaptiveLayer)
}
INNER = {"loss": {"kind": "score_zscore"}}
REQUIRED = {
    "hidden": {"layer": 1},
    "label_softmax": {"classes": 3, "width": 8},
    "matryoshka": {"dims": [8], **INNER},
    "adaptive_layer": INNER,
}

WITHOUT_PAPER = {"online_contrastive", "score_zscore"}

IDENTIFIER = re.compile(r"arXiv:\d{4}\.\d{5}|doi:[\w./-]*[\w/]|https://kexue\.fm/archives/\d+")

OPTIONS = [
    ("hidden", {}, {"arXiv:1910.01108"}),
    ("hidden", {"distance": "mse"}, {"arXiv:1909.10351"}),
    ("info_nce", {"false_negatives": [{"by": "text_hash"}]}, {"arXiv:1807.03748"}),
    ("info_nce", {"false_negatives": [{"by": "teacher", "margin": 0.0}]}, {"arXiv:1807.03748", "arXiv:2402.16829"}),
    (
        "info_nce",
        {"false_negatives": [{"by": "student", "margin": 0.05}]},
        {"arXiv:1807.03748", "arXiv:2402.16829", "arXiv:2407.15831"},
    ),
    ("info_nce", {"directions": ["q2d", "d2q"]}, {"arXiv:1807.03748", "arXiv:2308.03281"}),
    ("info_nce", {"directions": ["q2d", "d2q"], "partition": "per_direction"}, {"arXiv:1807.03748"}),
    ("info_nce", {"hardness": "in_batch", "strength": 9}, {"arXiv:1807.03748", "arXiv:2503.04812"}),
    ("info_nce", {"hardness": "hard", "strength": 5}, {"arXiv:1807.03748", "arXiv:2509.20354"}),
    ("info_nce", {"temperature": {"start": 0.1}}, {"arXiv:1807.03748", "arXiv:2103.00020"}),
    ("score_kl", {"targets": "vectors"}, {"arXiv:1503.02531"}),
    ("score_kl", {"targets": "scores"}, {"arXiv:1503.02531", "arXiv:2010.11386"}),
    ("batch_triplet", {"mining": "semi_hard"}, {"arXiv:1703.07737", "arXiv:1503.03832"}),
    ("spread_out", {"mean_weight": 0.0}, {"arXiv:1708.06320", "arXiv:2509.20354"}),
    ("flops", {"threshold": 64}, {"arXiv:2004.05665", "arXiv:2504.14839"}),
    ("flops", {"threshold": None}, {"arXiv:2004.05665"}),
    ("matryoshka", {"loss": {"kind": "angle"}}, {"arXiv:2205.13147", "doi:10.18653/v1/2024.acl-long.101"}),
]


def named_in(module) -> set[str]:
    """Identifiers of papers in the docstrings and comments of a file, in whichever code they are."""
    return set(IDENTIFIER.findall(re.sub(r"papers = .*|return \(.*arXiv.*|\"arXiv.*", "", inspect.getsource(module))))


def made(kind: str, **options) -> LossConfig:
    return CLASSES[kind](**{**REQUIRED.get(kind, {}), **options})


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_a_loss_cites_what_its_docstring_names(kind):
    cited = set(made(kind).cited())
    assert cited <= named_in(sys.modules[CLASSES[kind].__module__])
    assert bool(cited) == (kind not in WITHOUT_PAPER)


@pytest.mark.parametrize(("kind", "options", "expected"), OPTIONS)
def test_options_add_their_papers(kind, options, expected):
    """Each paper is named where the option is explained."""
    assert set(made(kind, **options).cited()) == expected
    inner = options.get("loss", {}).get("kind", kind)
    modules = [sys.modules[CLASSES[each].__module__] for each in (kind, inner)]
    assert expected <= set().union(*map(named_in, (*modules, false_negatives, temperature, listwise)))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (LatentAttention(), {"arXiv:2405.17428"}),
        (SparseVocabulary(), {"arXiv:2107.05720", "arXiv:2402.03216"}),
        (Splade(), {"arXiv:2107.05720", "arXiv:2109.10086"}),
        (Splade(strategy="sum"), {"arXiv:2107.05720"}),
    ],
)
def test_poolings_cite_theirs(pooling, expected):
    assert set(pooling.cited()) == expected


def test_every_listed_paper_is_well_formed():
    keys = [paper.key for paper in PAPERS.values()]
    assert len(set(keys)) == len(keys)
    for paper in PAPERS.values():
        entry = bibtex(paper)
        assert entry.count("{") == entry.count("}")
        assert "url = {https://" in entry or "doi = {10." in entry


def test_each_work_is_cited_once_and_sentence_bert_first():
    own = Paper("arXiv:2601.00001", "me2026", "Mine", "Me", 2026)
    text = citations(["arXiv:2004.05665", "arXiv:2301.12005", SENTENCE_BERT, "arXiv:2004.05665", own])
    assert re.findall(r"@\w+\{(\w+),", text) == [
        "reimers2019sentencebert",
        "paria2020minimizing",
        "kim2023embeddistill",
        "me2026",
    ]
    assert "https://arxiv.org/abs/2601.00001" in text
