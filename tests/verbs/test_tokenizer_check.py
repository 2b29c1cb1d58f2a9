"""Tokens of the student compared with those that transformers makes, before anything is trained."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jdistill import cli
from jdistill.config import UserError
from jdistill.student import StudentConfig, Tokenizer
from jdistill.student.tokenizer_texts import AWKWARD
from jdistill.teacher.tokens import Answer, Question, transformers_version
from jdistill.verbs import load_recipe, tokenizer_check
from jdistill.verbs.tokenizer_check import Compared, check_tokenizer, difference
from tests.folders.test_code import change
from tests.tiny import tiny_bert_folder, tiny_static_folder, write_tokenizer
from tests.verbs.conftest import Job
from tests.verbs.test_before_training import both_refuse

pytestmark = pytest.mark.skipif(transformers_version() is None, reason="transformers is not installed")

QUESTION = Question("m", {}, False, ("a", "b", "c"), (None, 4))


def recipe_of(**student: Any) -> Any:
    return SimpleNamespace(student=StudentConfig.model_validate(student))


@pytest.fixture
def misread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose tokenizer.json lower-cases while its class does not, read by us as if the class did not count."""
    folder = tiny_bert_folder(tmp_path / "m", layers=1)
    change(folder / "tokenizer_config.json", do_lower_case=False)
    monkeypatch.setattr(tokenizer_check, "read_tokenizer", lambda folder, **_: Tokenizer.from_folder(folder))
    return folder


def test_other_tokens_stop_a_training_before_its_student_is_made(
    embedded: Job, misread: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.modules["jdistill.verbs.train"], "make_student", lambda *_, **__: pytest.fail("was made"))
    message = both_refuse(embedded, tmp_path, capsys, student={"init": str(misread)})
    assert f"student.init: {misread}: transformers {transformers_version()} loads its tokenizer as Bert" in message
    assert f" of {len(AWKWARD)} difficult texts differ" in message
    assert "the first is 'The CAT Sits': token ids [2, " in message
    assert "student.tokenizer" in message
    assert "student.check_tokenizer=false" in message


def test_a_tokenizer_of_its_own_is_named(misread: Path) -> None:
    with pytest.raises(UserError, match=rf"^student\.tokenizer: {misread}: transformers "):
        check_tokenizer(recipe_of(init="no/model", tokenizer=str(misread)), download=False)


def test_it_can_be_switched_off_for_a_resumed_run(embedded: Job, misread: Path, tmp_path: Path) -> None:
    train = {**embedded.content["train"], "steps": 2, "evaluate_every": None}
    recipe = embedded.write("off.yaml", run=str(tmp_path / "run"), student={"init": str(misread)}, train=train)
    assert cli.main(["train", recipe]) == 2
    assert cli.main(["train", recipe, "student.check_tokenizer=false"]) == 0
    assert check_tokenizer(load_recipe(recipe, ["student.check_tokenizer=false"]), download=False) is None
    change(misread / "tokenizer_config.json", do_lower_case=True)
    assert cli.main(["train", recipe]) == 0


@pytest.mark.parametrize("settings", [{"do_lower_case": True}, {"tokenizer_args": {"do_lower_case": True}}, {}])
def test_settings_of_sentence_transformers_count_on_both_sides(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_bert_folder(tmp_path / "m", layers=1)
    change(folder / "tokenizer_config.json", do_lower_case=False)
    change(folder / "sentence_bert_config.json", **settings)
    found = check_tokenizer(recipe_of(init=str(folder)), download=False)
    line = f"same tokens as BertTokenizer of transformers {transformers_version()} on {len(AWKWARD)} difficult texts"
    assert found == Compared(line, equal=True)


def test_what_transformers_cannot_load_is_only_noted(
    embedded: Job, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenizer_check, "ask", lambda _: Answer("", (), "ValueError no such class"))
    train = {**embedded.content["train"], "steps": 1, "evaluate_every": None}
    recipe = embedded.write("noted.yaml", run=str(tmp_path / "run"), train=train)
    expected_text = f"tokens not compared: transformers {transformers_version()} cannot load the tokenizer: ValueError"
    capsys.readouterr()
    assert cli.main(["train", recipe]) == 0
    assert f"student: {expected_text}" in capsys.readouterr().err
    assert cli.main(["show", "--check", recipe]) == 0
    assert f"  tokenizer: {expected_text}" in capsys.readouterr().out


def test_what_there_is_nothing_to_ask_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tokenizer_check, "ask", lambda _: pytest.fail("was asked"))
    static = tiny_static_folder(tmp_path / "static")
    for init in (static, tmp_path / "nowhere", "no/model", tmp_path):
        assert check_tokenizer(recipe_of(init=str(init)), download=False) is None
    write_tokenizer(tmp_path / "static")
    monkeypatch.setattr(tokenizer_check, "transformers_version", lambda: None)
    assert check_tokenizer(recipe_of(init="no/model", tokenizer=str(tmp_path / "static")), download=False) is None


@pytest.mark.parametrize(
    ("here", "there", "expected_text"),
    [
        ([[1], [2], [3]], [[1], [2], [3]], None),
        (
            [[1], [2], [3]],
            [[1], [2], [4]],
            "1 of 3 difficult texts differ, the first is 'c': token ids [4] in transformers, [3] in jdistill.",
        ),
        ([[1], [2], [3]], [[1], [2, 5], []], "the first is 'b': token ids [2, 5] in transformers, [2] in"),
        (
            [[*range(30)]] * 3,
            [[*range(20), 7]] * 3,
            "in transformers, [18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29] in jdistill, from ",
        ),
        ([[*range(30)]] * 3, [[7]] * 3, "[7] in transformers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 18 more] in"),
    ],
)
def test_how_a_difference_is_reported(here: list[list[int]], there: list[list[int]], expected_text: str | None) -> None:
    found = difference(QUESTION, [here, here], Answer("C", [there, there]))
    assert found is None if expected_text is None else expected_text in (found or "")


def test_a_difference_in_cut_texts_alone(tmp_path: Path) -> None:
    same = [[1], [2], [3]]
    found = difference(QUESTION, [same, same], Answer("C", [same, [[1], [9], [3]]]))
    assert found == (
        "1 of 3 difficult texts differ, the first is 'b' (truncated to 4 tokens): token ids [9] in transformers, "
        "[2] in jdistill."
    )


def test_what_to_do_follows_from_the_release() -> None:
    assert "Install transformers 5" in tokenizer_check._advice("4.57.1")
    assert "Re-save the tokenizer" in tokenizer_check._advice("5.23.0")


def test_a_model_of_the_hub_is_compared_where_it_was_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "0123456789" * 4
    place = tmp_path / "models--own--model"
    snapshot = tiny_bert_folder(place / "snapshots" / commit, layers=1)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked: list[Question] = []
    monkeypatch.setattr(tokenizer_check, "ask", lambda question: asked.append(question) or Answer("", (), "no"))
    for download in (False, True):
        assert check_tokenizer(recipe_of(init="own/model"), download=download) is not None
    assert [Path(question.folder) for question in asked] == [snapshot, snapshot]
    assert check_tokenizer(recipe_of(init="own/model", revision="other"), download=False) is None
