"""Which tokenizer a folder has: options of sentence-transformers, and folders without a tokenizer."""

import json
from pathlib import Path

import pytest

from jdistill.config import UserError
from jdistill.student.tokenizer_folder import read_tokenizer
from tests.tiny import write_tokenizer


def _cased(folder: Path) -> Path:
    write_tokenizer(folder)
    for name, change in (("tokenizer_config.json", {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}),):
        content = json.loads((folder / name).read_text()) | change
        (folder / name).write_text(json.dumps(content))
    return folder


def test_lowercase_is_added_on_demand_and_kept(tmp_path: Path) -> None:
    plain, lower = read_tokenizer(_cased(tmp_path)), read_tokenizer(tmp_path, lowercase=True)
    assert lower.encode(["The CAT"], 9) == plain.encode(["the cat"], 9) != plain.encode(["The CAT"], 9)
    assert lower.fingerprint != plain.fingerprint
    lower.save(tmp_path / "written")
    assert read_tokenizer(tmp_path / "written").encode(["The CAT"], 9) == lower.encode(["The CAT"], 9)


@pytest.mark.parity
def test_a_lowercased_tokenizer_is_written_so_that_transformers_lowercases(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    lower = read_tokenizer(_cased(tmp_path), lowercase=True)
    lower.save(tmp_path / "written")
    (tmp_path / "written/config.json").write_text(json.dumps({"model_type": "bert"}))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "written")
    assert theirs("The CAT")["input_ids"] == lower.encode(["The CAT"], None)[0]


def test_options_win_over_the_folder(tmp_path: Path) -> None:
    cased = read_tokenizer(_cased(tmp_path))
    lower = read_tokenizer(tmp_path, options={"do_lower_case": True, "truncation_side": "left"})
    assert lower.encode(["The CAT"], 9) == cased.encode(["the cat"], 9)
    assert lower.encode(["the cat sits"], 3) == cased.encode(["sits"], 3)


def test_a_folder_without_a_tokenizer_is_reported(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"some")
    with pytest.raises(UserError, match=r"no tokenizer\.json, only sentencepiece\.bpe\.model.*jdistill convert"):
        read_tokenizer(tmp_path)


def test_files_that_do_not_fit_each_other_are_reported(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece"}}))
    with pytest.raises(UserError, match="does not fit"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: does not fit"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="cannot read it"):
        read_tokenizer(tmp_path)
