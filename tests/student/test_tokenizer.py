"""Tokens are those of transformers' fast tokenizers, whatever the text."""

import json

import pytest

from jdistill.config import UserError
from jdistill.student.tokenizer import Tokenizer
from jdistill.student.tokenizer_folder import read_tokenizer
from tests.tiny import SENTENCES, tiny_bert_folder, write_tokenizer

ODD = [
    *SENTENCES,
    "   ",
    "Ünïcödé naïve café ﬁn ½",
    "你好,世界 こんにちは",
    "emoji 🙂🚀👩‍👩‍👧 cat",
    "tab\tnew\nline\u00a0nbsp\u200bzero",
    "[CLS] in the text [SEP] [MASK]",
    "the cat " * 100,
    "x" * 300,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"), max_length=64)


@pytest.mark.parity
@pytest.mark.parametrize("max_length", [3, 8, 64])
def test_tokens_are_those_of_transformers(folder, max_length):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    expected = theirs(ODD, truncation=True, max_length=max_length)["input_ids"]
    assert Tokenizer.from_folder(folder).encode(ODD, max_length) == expected


@pytest.mark.parity
def test_tokens_without_special_ones_are_those_of_static_embedding(folder):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [encoding.ids for encoding in theirs.encode_batch(ODD, add_special_tokens=False)]
    ours = Tokenizer.from_folder(folder, special_tokens=False)
    assert ours.encode(ODD, None) == expected
    assert ours.encode(ODD, 2) == [row[:2] for row in expected]


def test_padding_and_truncation_of_the_file_are_ignored(folder, tmp_path):
    write_tokenizer(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    definition["padding"] = {
        "strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    definition["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    plain, odd = Tokenizer.from_folder(folder), Tokenizer.from_folder(tmp_path)
    assert odd.encode(ODD, 64) == plain.encode(ODD, 64)
    assert odd.fingerprint == plain.fingerprint


def test_fingerprint_tells_different_tokenizers_apart(folder, tmp_path):
    write_tokenizer(tmp_path, vocab=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"))
    prints = {
        Tokenizer.from_folder(folder).fingerprint,
        Tokenizer.from_folder(folder, special_tokens=False).fingerprint,
        Tokenizer.from_folder(tmp_path).fingerprint,
    }
    assert len(prints) == 3


def test_pad_id_and_sizes(tmp_path):
    write_tokenizer(tmp_path, vocab=("cat", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), max_length=77)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.pad_id, tokenizer.vocab_size, tokenizer.model_max_length) == (1, 6, 77)


def test_save_and_read_back(folder, tmp_path):
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer.encode(["cat"], 4)
    tokenizer.save(tmp_path, max_length=48)
    again = Tokenizer.from_folder(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(ODD, 20) == tokenizer.encode(ODD, 20)
    assert again.model_max_length == 48
    assert (tmp_path / "vocab.txt").read_text() == (folder / "vocab.txt").read_text()


def test_no_room_for_a_token_is_an_error(folder):
    with pytest.raises(ValueError, match="no room"):
        Tokenizer.from_folder(folder).encode(["cat"], 2)


def test_missing_or_broken_files_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read it"):
        Tokenizer.from_folder(tmp_path)


def change(file, changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


_TOKEN = {"content": "<new>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

FURTHER = {
    "a list, as transformers 5 writes it": ({"extra_special_tokens": ["<new>"]}, ["<new>"], None),
    "objects": ({"extra_special_tokens": [{"__type": "AddedToken", **_TOKEN, "special": True}]}, ["<new>"], None),
    "objects without type": ({"additional_special_tokens": [_TOKEN]}, ["<new>"], None),
    "names": ({"extra_special_tokens": {"new_token": "<new>"}}, None, {"new_token": "<new>"}),
    "both lists": (
        {"additional_special_tokens": ["<new>"], "extra_special_tokens": ["cat", "<new>"]},
        ["<new>", "cat"],
        None,
    ),
    "a list and names": (
        {"additional_special_tokens": ["cat"], "extra_special_tokens": {"new_token": "<new>"}},
        ["cat"],
        {"new_token": "<new>"},
    ),
    "none": ({"additional_special_tokens": None, "extra_special_tokens": []}, None, None),
    "as transformers 4 wrote it": ({"additional_special_tokens": ["<new>"]}, ["<new>"], None),
}


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("form", FURTHER)
def test_further_special_tokens_are_written_as_every_release_reads_them(tmp_path, form, file):
    """Where `extra_special_tokens` is a list or null, transformers 4.56, for one, ends with an AttributeError."""
    given, listed, named = FURTHER[form]
    write_tokenizer(tmp_path, further=["<new>"])
    change(tmp_path / file, given)
    read_tokenizer(tmp_path).save(tmp_path / "out")
    written = json.loads((tmp_path / "out" / file).read_text())
    assert written.get("additional_special_tokens") == listed
    assert written.get("extra_special_tokens") == named
    assert "extra_special_tokens" not in written or named is not None


@pytest.mark.parity
@pytest.mark.parametrize("form", FURTHER)
def test_further_special_tokens_are_read_by_transformers_and_by_us(tmp_path, form):
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path, further=["<new>"])
    change(tmp_path / "tokenizer_config.json", FURTHER[form][0])
    ours = read_tokenizer(tmp_path)
    ours.save(tmp_path / "out")
    texts = ["the <new> cat", "<new>", "a dog"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(texts)["input_ids"] == ours.encode(texts, None)
    assert theirs.convert_tokens_to_ids("<new>") in ours.special_ids
    assert read_tokenizer(tmp_path / "out").encode(texts, None) == ours.encode(texts, None)


def test_the_generic_class_is_written_by_the_name_that_every_release_knows(tmp_path):
    write_tokenizer(tmp_path)
    change(tmp_path / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"})
    read_tokenizer(tmp_path).save(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_class_that_reads_images_too_is_not_written(tmp_path):
    """AutoProcessor, and so sentence-transformers, would look for an image processor beside the student."""
    write_tokenizer(tmp_path)
    change(tmp_path / "tokenizer_config.json", {"processor_class": "Gemma3Processor"})
    read_tokenizer(tmp_path).save(tmp_path / "out")
    assert "processor_class" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_special_tokens_beyond_the_table_are_none_of_the_models(tmp_path):
    write_tokenizer(tmp_path, further=["<image>"])
    whole = read_tokenizer(tmp_path)
    cut = whole.within(whole.vocab_size - 1)
    assert whole.special_names == [*cut.special_names, "<image>"]
    assert whole.special_ids == [*cut.special_ids, whole.vocab_size - 1]


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"])
def test_a_damaged_companion_is_refused(tmp_path, name):
    write_tokenizer(tmp_path)
    (tmp_path / name).write_bytes(b"\xff{}")
    with pytest.raises(UserError, match=f"{name}: is not UTF-8"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("read", [Tokenizer.from_folder, read_tokenizer])
def test_a_truncated_companion_is_refused(tmp_path, read):
    write_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"unk_token": ')
    with pytest.raises(UserError, match=r"special_tokens_map\.json: not valid JSON"):
        read(tmp_path)
