"""Which training texts pruning reads."""

import numpy as np

from jdistill.student.pruning import texts as texts_module
from jdistill.student.pruning.texts import PromptedIds, PruningTexts

TEXTS = [f"text {i}" for i in range(100)]


def _texts(seed=0):
    groups = [PromptedIds(np.array([3, 1, 3, 2]), "q: "), PromptedIds(np.arange(10, 60).reshape(25, 2), "d: ")]
    return PruningTexts(lambda ids: [TEXTS[i] for i in ids], groups, seed=seed)


def test_a_sample_has_texts_of_both_groups_with_their_prompts_and_follows_from_the_seed():
    sample = _texts().sample(8)
    assert len(sample) == len(set(sample)) == 7  # four of each, of which one group has three
    assert sorted(text for text in sample if text.startswith("q: ")) == ["q: text 1", "q: text 2", "q: text 3"]
    assert sample[:2] == [next(t for t in sample if t[0] == "q"), next(t for t in sample if t[0] == "d")]
    assert sample == _texts().sample(8)
    assert sample != _texts(seed=1).sample(8)


def test_every_text_is_counted_once_in_each_group():
    texts = [text for chunk in _texts().chunks() for text in chunk]
    assert texts == [f"q: text {i}" for i in (1, 2, 3)] + [f"d: text {i}" for i in range(10, 60)]


def test_of_too_many_texts_a_random_share_is_counted(monkeypatch):
    monkeypatch.setattr(texts_module, "COUNTED", 20)
    texts = [text for chunk in _texts().chunks() for text in chunk]
    assert len(texts) == 1 + 18
    assert texts == [text for chunk in _texts().chunks() for text in chunk]


def test_a_list_of_texts_is_a_texts():
    assert sorted(PruningTexts.of(TEXTS).sample(100)) == sorted(TEXTS)
