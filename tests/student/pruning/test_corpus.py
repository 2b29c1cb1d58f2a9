"""Which training texts a student is fitted to."""

import numpy as np

from jdistill.student import Corpus, Side
from jdistill.student.pruning import corpus as room

TEXTS = [f"text {i}" for i in range(100)]


def _corpus(seed=0):
    sides = [Side(np.array([3, 1, 3, 2]), "q: "), Side(np.arange(10, 60).reshape(25, 2), "d: ")]
    return Corpus(lambda ids: [TEXTS[i] for i in ids], sides, seed=seed)


def test_a_sample_is_of_both_sides_with_their_prompts_and_follows_from_the_seed():
    sample = _corpus().sample(8)
    assert len(sample) == len(set(sample)) == 7  # four of each, of which one side has three
    assert sorted(text for text in sample if text.startswith("q: ")) == ["q: text 1", "q: text 2", "q: text 3"]
    assert sample[:2] == [next(t for t in sample if t[0] == "q"), next(t for t in sample if t[0] == "d")]
    assert sample == _corpus().sample(8)
    assert sample != _corpus(seed=1).sample(8)


def test_every_text_is_counted_once_a_side():
    texts = [text for chunk in _corpus().chunks() for text in chunk]
    assert texts == [f"q: text {i}" for i in (1, 2, 3)] + [f"d: text {i}" for i in range(10, 60)]


def test_of_too_many_texts_a_random_share_is_counted(monkeypatch):
    monkeypatch.setattr(room, "COUNTED", 20)
    texts = [text for chunk in _corpus().chunks() for text in chunk]
    assert len(texts) == 1 + 18
    assert texts == [text for chunk in _corpus().chunks() for text in chunk]


def test_a_list_of_texts_is_a_corpus():
    assert sorted(Corpus.of(TEXTS).sample(100)) == sorted(TEXTS)
