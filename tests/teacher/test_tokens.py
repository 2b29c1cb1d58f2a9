"""Tokens asked of transformers, in a process of its own, and kept."""

import json
from pathlib import Path

import pytest

from jdistill.student.tokenizer_folder import read_tokenizer
from jdistill.student.tokenizer_texts import AWKWARD
from jdistill.teacher import tokens
from jdistill.teacher.tokens import Answer, Question, answered, ask, transformers_version
from tests.folders.test_code import change
from tests.tiny import write_tokenizer

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(transformers_version() is None, reason="transformers is not installed"),
]

KNOWN = Answer("Known", [[[1, 2]]])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "m"
    folder.mkdir()
    write_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def about(folder: Path, *texts: str, lowercase: bool = False, **options: object) -> Question:
    return Question(str(folder), options, lowercase, texts, (None, 4))


def test_another_process_answers_and_is_asked_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    question = about(folder, *AWKWARD)
    answer = ask(question)
    ours = read_tokenizer(folder)
    assert answer == Answer("BertTokenizer", [ours.encode(list(AWKWARD), length) for length in (None, 4)])
    monkeypatch.setattr(tokens, "_asked", lambda _: pytest.fail("asked again"))
    assert ask(question) == answer
    moved = folder.rename(tmp_path / "moved")
    assert ask(about(moved, *AWKWARD)) == answer


@pytest.mark.parametrize("change_of", ["vocabulary", "class", "text", "option", "lowercase", "release"])
def test_it_is_asked_again_of_whatever_may_have_another_answer(
    folder: Path, change_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_asked", lambda _: KNOWN)
    ask(about(folder, "a"))
    monkeypatch.setattr(tokens, "_asked", lambda _: KNOWN._replace(name="Other"))
    assert ask(about(folder, "a")) == KNOWN
    question = about(folder, "a")
    if change_of == "vocabulary":
        change(folder / "tokenizer.json", version="1.1")
    elif change_of == "class":
        change(folder / "config.json", model_type="mpnet")
    elif change_of == "release":
        monkeypatch.setattr("importlib.metadata.version", lambda name: "9.0")
    else:
        question = {
            "text": about(folder, "b"),
            "option": about(folder, "a", do_lower_case=False),
            "lowercase": about(folder, "a", lowercase=True),
        }[change_of]
    assert ask(question).name == "Other"


@pytest.mark.parametrize("content", ["", "{}", '{"name": 1, "more": 2}', "[]", "nul"])
def test_a_damaged_answer_is_asked_for_again(folder: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_asked", lambda _: KNOWN)
    ask(about(folder, "a"))
    (kept,) = (folder.parent / "cache").rglob("*.json")
    kept.write_text(content)
    assert ask(about(folder, "a")) == KNOWN


def test_where_nothing_can_be_kept_it_is_answered_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "cache").write_text("a file")
    monkeypatch.setattr(tokens, "_asked", lambda _: KNOWN)
    assert ask(about(folder, "a")) == KNOWN


def test_a_failure_is_reported_and_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text("{")
    assert ask(about(folder, "a")).failure
    assert not list((folder.parent / "cache").rglob("*.json"))
    (folder / "tokenizer.json").write_text(whole)
    monkeypatch.setattr(tokens, "SECONDS", 0.01)
    assert ask(about(folder, "a")).failure == "no answer within 0.01 s"
    monkeypatch.setattr(tokens.sys, "executable", str(folder / "no python"))
    assert "FileNotFoundError" in ask(about(folder, "a")).failure


def test_options_and_lower_casing_are_those_of_sentence_transformers(folder: Path) -> None:
    change(folder / "tokenizer_config.json", do_lower_case=False)
    cased, small, lower, both = (
        answered(question).ids[0]
        for question in (
            about(folder, "The CAT Sits"),
            about(folder, "the cat sits"),
            about(folder, "The CAT Sits", lowercase=True),
            about(folder, "The CAT Sits", lowercase=True, do_lower_case=True),
        )
    )
    assert cased != small
    assert lower == both == small


def test_no_code_of_a_folder_is_run(folder: Path) -> None:
    """Even where the folder itself says that it may be."""
    mark = folder.parent / "ran"
    (folder / "tokenization_own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass OwnTokenizer: pass\n")
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]})
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer")
    (folder / "config.json").unlink()
    answer = answered(about(folder, "a", trust_remote_code=True, local_files_only=False))
    assert not mark.exists()
    assert answer.failure or answer.name != "OwnTokenizer"
    json.dumps(answer._asdict())
