"""Prompts of a folder: names, sides, null and defaults."""

from pathlib import Path

import pytest

from jdistill.config import UserError
from jdistill.folders.prompts import prompt_name, prompts_of

WHERE = Path("config_sentence_transformers.json")


def test_null_is_no_prompt_and_any_name_is_kept() -> None:
    given = {"prompts": {"query": None, "passage": "p: ", "Retrieval": "r: "}, "default_prompt_name": "Retrieval"}
    assert prompts_of(given, where=WHERE) == {"query": "", "passage": "p: ", "Retrieval": "r: "}
    assert prompts_of({"prompts": None}, where=WHERE) == prompts_of({}, where=WHERE) == {}


@pytest.mark.parametrize("prompts", [["q"], {"query": 3}, "q: "])
def test_invalid_prompts_are_reported(prompts: object) -> None:
    with pytest.raises(UserError, match=r"config_sentence_transformers\.json: prompts is .*expected a mapping"):
        prompts_of({"prompts": prompts}, where=WHERE)


def test_a_default_must_be_there() -> None:
    with pytest.raises(UserError, match=r"default_prompt_name is 'other', which is not in prompts \(query\)"):
        prompts_of({"prompts": {"query": "q: "}, "default_prompt_name": "other"}, where=WHERE)


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        ({}, None, None),
        ({"query": "q", "document": "d", "passage": "p"}, "query", "document"),
        ({"query": "", "document": "", "passage": "p"}, None, "passage"),
        ({"corpus": "c"}, None, "corpus"),
        ({"corpus": "c", "passage": "p"}, None, "passage"),
        ({"other": "o"}, None, None),
    ],
)
def test_the_prompt_of_a_side(prompts: dict[str, str], query: str | None, document: str | None) -> None:
    assert (prompt_name(prompts, "query"), prompt_name(prompts, "document")) == (query, document)
