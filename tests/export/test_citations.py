"""Citations follow losses and options, and agree with the sources that docstrings name."""

import inspect
import re
import sys
from typing import get_args

import pytest

from jdistill import losses
from jdistill.export.citations import OF_KIND, OF_METHOD, WITHOUT_PAPER, citations, papers_of
from jdistill.export.papers import PAPERS, bibtex
from jdistill.losses import temperature
from jdistill.losses.contrast import false_negatives
from jdistill.losses.scores import listwise
from jdistill.parallel import microbatches
from jdistill.student import lora
from jdistill.student.pooling import latent_attention, sparse_vocabulary, splade

CLASSES = {cls.model_fields["kind"].default: cls for cls in get_args(get_args(losses.Loss)[0])[:-1]}
KINDS = set(CLASSES)
REQUIRED = {"hidden": {"layer": 1}, "matryoshka": {"dims": [8]}}

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
    """Identifiers of papers in a file's text."""
    return set(IDENTIFIER.findall(inspect.getsource(module)))


def test_every_kind_of_loss_has_its_papers_or_is_listed_without():
    assert set(OF_KIND) | set(WITHOUT_PAPER) == KINDS
    assert not set(OF_KIND) & set(WITHOUT_PAPER)
    silent = [kind for kind in OF_KIND if not list(papers_of({"kind": kind}))]
    assert silent == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_cited_is_what_the_docstring_names(kind):
    named = named_in(sys.modules[CLASSES[kind].__module__])
    assert set(papers_of({"kind": kind})) <= named
    if kind in WITHOUT_PAPER:
        assert not set(papers_of({"kind": kind}))


@pytest.mark.parametrize(("kind", "options", "expected"), OPTIONS)
def test_options_add_their_papers(kind, options, expected):
    """As a recipe dumps them, every other option at its default; each paper is named where the option is explained."""
    loss = CLASSES[kind](**REQUIRED.get(kind, {}), **options)
    assert set(papers_of(loss.model_dump(mode="json"))) == expected
    inner = options.get("loss", {}).get("kind", kind)
    modules = [sys.modules[CLASSES[each].__module__] for each in (kind, inner)]
    assert expected <= set().union(*map(named_in, (*modules, false_negatives, temperature, listwise)))


@pytest.mark.parametrize(
    ("method", "module"),
    [
        ("grad_cache", microbatches),
        ("lora", lora),
        ("latent_attention", latent_attention),
        ("sparse", splade),
        ("sparse_vocabulary", sparse_vocabulary),
        ("splade", splade),
    ],
)
def test_methods_cite_what_their_files_name(method, module):
    assert OF_METHOD[method] in named_in(module)


def test_every_paper_belongs_to_a_loss_or_method_and_is_well_formed():
    used = {paper for papers in OF_KIND.values() for paper in papers} | set(OF_METHOD.values())
    used |= {paper for _, _, expected in OPTIONS for paper in expected}
    assert used == set(PAPERS)
    keys = [paper.key for paper in PAPERS.values()]
    assert len(set(keys)) == len(keys)
    for identifier in PAPERS:
        entry = bibtex(identifier)
        assert entry.count("{") == entry.count("}")
        assert "url = {https://" in entry or "doi = {10." in entry


def test_each_work_is_cited_once_and_sentence_bert_first():
    text = citations([{"kind": "flops"}, {"kind": "flops"}, {"kind": "embed_cosine"}], ["grad_cache"])
    cited = re.findall(r"@\w+\{(\w+),", text)
    assert cited == ["reimers2019sentencebert", "paria2020minimizing", "kim2023embeddistill", "gao2021scaling"]
