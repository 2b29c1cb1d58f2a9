"""Smaller vocabularies: texts whose tokens are kept are cut as before, and every other text is cut somehow."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.student.pruning.config import Vocabulary
from jdistill.student.pruning.subwords import subword_model
from jdistill.student.pruning.vocabulary import count_tokens, kept_tokens, rebuilt_tokenizer, special_tokens
from tests.student.pruning.trained import KINDS, SPECIAL, texts, write

COUNTED = list(texts()[::3])
WORDS = sorted({word for line in texts() for word in line.split()})


class Case:
    """A tokenizer, and itself made smaller."""

    def __init__(self, kind, folder, **wanted):
        self.old = write(KINDS[kind](), folder)
        self.subwords = subword_model(self.old.definition, where="here")
        self.counts = count_tokens(self.old, [COUNTED], max_length=None, size=self.old.vocab_size)
        special = special_tokens(self.old)
        self.kept = kept_tokens(Vocabulary(**wanted), self.subwords, self.old.ids, special, self.counts)
        self.new = rebuilt_tokenizer(self.old, self.subwords, self.kept)


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    sizes = {"sentencepiece bpe": 650}  # of which 256 are bytes
    return Case(request.param, tmp_path_factory.mktemp("old"), size=sizes.get(request.param, 480))


def _tokens(tokenizer, text):
    (ids,) = tokenizer.encode([text], None)
    named = {i: token for token, i in tokenizer.ids.items()}
    return [named[i] for i in ids]


TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.text("abs_e.(é☃z ", max_size=5)), max_size=6).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_a_text_whose_tokens_are_kept_is_cut_as_before(case, text):
    before, after = _tokens(case.old, text), _tokens(case.new, text)
    if {*before} <= {*case.kept}:
        assert after == before
    assert {*after} <= {*case.kept}


def test_enough_texts_are_covered_and_enough_are_not(case):
    """Else the test above would show nothing."""
    covered = [{*_tokens(case.old, word)} <= {*case.kept} for word in WORDS]
    assert 0.2 < np.mean(covered) < 0.98


def test_no_counted_text_gets_an_unknown_token(case):
    for text in COUNTED:
        assert "<unk>" not in _tokens(case.new, text)
        assert len(_tokens(case.new, text)) >= len(_tokens(case.old, text))


def test_ids_are_without_gaps_in_the_old_order(case):
    assert sorted(case.new.ids.values()) == list(range(len(case.kept)))
    assert sorted(case.kept, key=case.new.ids.__getitem__) == sorted(case.kept, key=case.old.ids.__getitem__)
    assert len(case.kept) == case.new.vocab_size < case.old.vocab_size


def test_special_tokens_and_the_most_frequent_stay(case):
    assert {*SPECIAL} <= {*case.kept}
    order = sorted(case.subwords.ids, key=lambda token: -case.counts[case.old.ids[token]])
    assert {*order[:50]} <= {*case.kept}
    assert case.new.pad_id == case.new.ids["<pad>"]


def test_transformers_reads_the_same_ids(case, tmp_path):
    from transformers import AutoTokenizer

    case.new.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    lines = [*texts()[:60], *WORDS[:200], "zzz |||name||| é☃", ""]
    assert [theirs(line)["input_ids"] for line in lines] == case.new.encode(lines, None)
    named = {"pad": "<pad>", "unk": "<unk>", "mask": "<mask>", "cls": "<s>", "eos": "</s>"}
    for name, token in named.items():
        assert getattr(theirs, f"{name}_token_id") == case.new.ids[token]
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    decoder = settings.get("added_tokens_decoder", {})
    assert all(case.new.ids[entry["content"]] == int(i) for i, entry in decoder.items())
    assert {entry["content"] for entry in decoder.values()} == {*SPECIAL}


def test_tokens_by_how_often_they_occur(tmp_path):
    case = Case("wordpiece", tmp_path, min_count=3)
    often = {token for token, i in case.old.ids.items() if case.counts[i] >= 3}
    assert often <= {*case.kept}
    rest = {*case.kept} - often - {*SPECIAL}
    assert all(len(case.subwords.plain(token)) == 1 for token in rest)


def test_too_small_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is 20, but \d+ tokens are required"):
        Case("wordpiece", tmp_path, size=20)


def test_another_kind_of_tokenizer_is_refused():
    with pytest.raises(UserError, match="WordLevel"):
        subword_model({"model": {"type": "WordLevel", "vocab": {}}}, where="here")


def test_one_rule_is_given():
    for wanted in ({}, {"size": 5, "min_count": 2}):
        with pytest.raises(ValueError, match="exactly one"):
            Vocabulary(**wanted)


def test_files_beside_the_tokenizer_follow(tmp_path):
    old = write(KINDS["wordpiece"](), tmp_path / "old")
    (tmp_path / "old" / "vocab.txt").write_text("".join(f"{t}\n" for t in sorted(old.ids, key=old.ids.__getitem__)))
    (tmp_path / "old" / "added_tokens.json").write_text(json.dumps({"zzz": old.ids["zzz"]}))
    case = Case.__new__(Case)
    case.old = old.from_folder(tmp_path / "old")
    subwords = subword_model(case.old.definition, where="here")
    kept = sorted([*SPECIAL, *"abcdefgh", "zzz"], key=case.old.ids.__getitem__)
    rebuilt_tokenizer(case.old, subwords, kept).save(tmp_path / "new")
    assert (tmp_path / "new" / "vocab.txt").read_text().split("\n")[:-1] == kept
    assert json.loads((tmp_path / "new" / "added_tokens.json").read_text()) == {"zzz": len(kept) - 1}
