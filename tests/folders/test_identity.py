"""Hashes follow what decides vectors, and nothing else."""

import json
import shutil

import pytest

from jdistill.folders import config_hash, tokenizer_hash, weight_hash
from tests.folders.test_code import change
from tests.tiny import tiny_bert_folder


@pytest.fixture
def folder(tmp_path):
    return tiny_bert_folder(tmp_path / "m", layers=1)


def hashes(folder):
    return weight_hash(folder), tokenizer_hash(folder), config_hash(folder)


def test_a_moved_folder_and_what_does_not_matter_keep_them(folder, tmp_path):
    before = hashes(folder)
    assert len(set(before)) == 3
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    change(moved / "config.json", transformers_version="9", _name_or_path="x", dtype="float32")
    path = moved / "tokenizer_config.json"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    change(moved / "config_sentence_transformers.json", prompts={"query": "q: "})
    (moved / "README.md").write_text("text")
    (moved / "data_config.json").write_text("[]")  # which all-MiniLM-L6-v2 has
    (moved / "code.py").write_text("text")
    assert hashes(moved) == before


@pytest.mark.parametrize(
    ("file", "keys", "changed"),
    [
        ("config.json", {"layer_norm_eps": 1e-5}, {2}),
        ("sentence_bert_config.json", {"max_seq_length": 8}, {2}),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, {2}),
        ("tokenizer_config.json", {"do_lower_case": False}, {1}),
        ("tokenizer.json", {"version": "2.0"}, {1}),
        ("special_tokens_map.json", {"unk_token": "[PAD]"}, {1}),
    ],
)
def test_what_matters_changes_one(folder, file, keys, changed):
    before = hashes(folder)
    change(folder / file, **keys)
    assert {i for i, (old, new) in enumerate(zip(before, hashes(folder), strict=True)) if old != new} == changed


def test_files_of_words_and_modules_count(folder):
    before = hashes(folder)
    with (folder / "vocab.txt").open("a") as file:
        file.write("more\n")
    assert tokenizer_hash(folder) != before[1]
    path = folder / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    assert config_hash(folder) != before[2]


def test_python_files_count_where_they_are_run(folder):
    (folder / "modeling.py").write_text("a = 1")
    before = config_hash(folder, code=True)
    (folder / "modeling.py").write_text("a = 2")
    assert config_hash(folder, code=True) != before


def test_pickled_weights_count(folder):
    (folder / "1_Pooling" / "pytorch_model.bin").write_bytes(b"a")
    before = hashes(folder)
    (folder / "1_Pooling" / "pytorch_model.bin").write_bytes(b"b")
    assert (weight_hash(folder), config_hash(folder) == before[2]) == (before[0], False)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    pickled = weight_hash(folder)
    assert pickled is not None
    assert pickled != before[0]
    (folder / "pytorch_model.bin").write_bytes(b"c")
    assert weight_hash(folder) != pickled
