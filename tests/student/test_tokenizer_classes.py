"""Tokens are those of the class that a folder names, whatever tokenizer.json says beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jdistill.student.tokenizer_folder import read_tokenizer
from jdistill.student.tokenizer_texts import AWKWARD
from tests.student.encoders import vocabularies as made

pytestmark = pytest.mark.parity

Change = dict[str, Any]

KINDS: dict[str, Callable[[], made.Vocabulary]] = {
    "bert": made.wordpiece(made.BERT),
    "distilbert": made.wordpiece(made.BERT),
    "mpnet": made.wordpiece(made.MPNET),
    "roberta": made.byte_pairs(made.FAIRSEQ),
    "xlm-roberta": made.unigram(made.FAIRSEQ),
    "camembert": made.unigram(made.FAIRSEQ),
    "qwen3": made.byte_pairs(made.FAIRSEQ, begins=False),
    "gemma3_text": made.byte_pairs(made.FAIRSEQ),
    "modernbert": made.byte_pairs(made.BERT),
}

_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_KÖLN = {"id": 500, "content": "köln", "single_word": False, "lstrip": False, "rstrip": False}

OPTIONS: dict[str, tuple[str, Change, Change]] = {
    "cased": ("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}, {}),
    "class of the model": ("bert", {"tokenizer_class": None, "do_lower_case": False}, {}),
    "fast": ("bert", {"tokenizer_class": "BertTokenizerFast", "strip_accents": False}, {}),
    "accents": ("bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True}, {}),
    "chinese": ("distilbert", {"tokenizer_class": "DistilBertTokenizer", "tokenize_chinese_chars": False}, {}),
    "generic": ("bert", {"do_lower_case": False}, {}),
    "unknown class": ("bert", {"tokenizer_class": "OtherTokenizer", "do_lower_case": False}, {}),
    "special words": ("bert", {"tokenizer_class": "BertTokenizer", "additional_special_tokens": ["cat", "<new>"]}, {}),
    "nothing added": ("bert", {"tokenizer_class": "BertTokenizer"}, {"added_tokens": []}),
    "a word added": ("bert", {}, {"added_tokens": [{**_KÖLN, "normalized": True, "special": False}]}),
    "mpnet": ("mpnet", {"tokenizer_class": "MPNetTokenizer", "do_lower_case": False}, {}),
    "prefix": ("roberta", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}, {}),
    "roberta": ("roberta", {"tokenizer_class": "RobertaTokenizer"}, {"normalizer": {"type": "Lowercase"}}),
    "next line": ("xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer"}, {"pre_tokenizer": _METASPACE}),
    "next line, generic": ("xlm-roberta", {}, {"pre_tokenizer": _METASPACE}),
    "no prefix": ("xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": False}, {}),
    "camembert": ("camembert", {"tokenizer_class": "CamembertTokenizer"}, {"pre_tokenizer": _METASPACE}),
    "camembert, class of the model": ("camembert", {"tokenizer_class": None, "add_prefix_space": False}, {}),
    "camembert, other special words": (
        "camembert",
        {"tokenizer_class": "CamembertTokenizerFast", "additional_special_tokens": ["cat"], "unk_token": "the"},
        {},
    ),
    "qwen": ("qwen3", {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}, {"normalizer": None}),
    "gemma": ("gemma3_text", {"tokenizer_class": "GemmaTokenizer", "add_eos_token": False}, {}),
    "special tokens as words": ("bert", {"split_special_tokens": True}, {}),
    "special tokens as words, qwen": ("qwen3", {"tokenizer_class": "Qwen2Tokenizer", "split_special_tokens": True}, {}),
    "modernbert": ("modernbert", {"tokenizer_class": "BertTokenizer", "do_lower_case": True}, {}),
}


def _write(folder: Path, kind: str, settings: Change, definition: Change) -> Path:
    KINDS[kind]().write(folder, max_length=64)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    for name, changes in (("tokenizer_config.json", settings), ("tokenizer.json", definition)):
        content = json.loads((folder / name).read_text()) | changes
        if name == "tokenizer_config.json":
            content = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(content))
    return folder


def _compare(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(folder), read_tokenizer(folder)
    for length in (None, 7):
        cut = {"truncation": True, "max_length": length} if length else {}
        texts = [*AWKWARD, "a <s>NOTUSED<unk>NOTUSED cat"]
        expected = {text: theirs(text, **cut)["input_ids"] for text in texts}
        assert dict(zip(texts, ours.encode(texts, length), strict=True)) == expected


@pytest.mark.parametrize("case", OPTIONS)
def test_options_and_classes(case: str, tmp_path: Path) -> None:
    folder = _write(tmp_path, *OPTIONS[case])
    _compare(folder)
    written = tmp_path / "written"
    read_tokenizer(folder).save(written)
    (written / "config.json").write_text((folder / "config.json").read_text())
    _compare(written)


@pytest.mark.parametrize("named", [True, False], ids=["class named", "class of the model"])
@pytest.mark.parametrize("kind", ["bert", "mpnet", "roberta", "qwen3"])
def test_a_vocabulary_alone(kind: str, named: bool, tmp_path: Path) -> None:
    KINDS[kind]().tokenizer.model.save(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    classes = {"bert": "Bert", "mpnet": "MPNet", "roberta": "Roberta", "qwen3": "Qwen2"}
    settings = {"tokenizer_class": f"{classes[kind]}Tokenizer", "do_lower_case": False, "add_eos_token": True}
    if named:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    _compare(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("vocabulary", ["tokenizer.json", "alone"])
def test_added_tokens_in_their_first_form(kind: str, vocabulary: str, tmp_path: Path) -> None:
    if kind == "modernbert" and vocabulary == "alone":
        return  # the generic class has no vocabulary of its own
    classes = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "modernbert": "PreTrainedTokenizerFast"}
    _write(tmp_path, kind, {"tokenizer_class": classes[kind], "additional_special_tokens": ["line"]}, {})
    size = KINDS[kind]().size
    names = ("naïve", "the", "line", "köln")
    content = {name: size + place for name, place in zip(names, (1, 0, 2, 3), strict=True)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(content))
    if vocabulary == "alone":
        KINDS[kind]().tokenizer.model.save(str(tmp_path))
        (tmp_path / "tokenizer.json").unlink()
    _compare(tmp_path)
    written = tmp_path / "written"
    read_tokenizer(tmp_path).save(written)
    (written / "config.json").write_text((tmp_path / "config.json").read_text())
    _compare(written)
    assert read_tokenizer(written).encode(["naïve köln"], None) == read_tokenizer(tmp_path).encode(["naïve köln"], None)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("where", ["tokenizer.json", "tokenizer_config.json"])
def test_the_side_of_truncation(side: str, where: str, tmp_path: Path) -> None:
    cut = {"direction": side.title(), "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    in_file = where == "tokenizer.json"
    _compare(
        _write(tmp_path, "bert", {} if in_file else {"truncation_side": side}, {"truncation": cut} if in_file else {})
    )
