"""Check, before training, that transformers tokenizes as the student does."""

from collections.abc import Sequence
from typing import NamedTuple

from jdistill.config import UserError
from jdistill.folders.refusals import transformers_in
from jdistill.recipe import Recipe
from jdistill.student import StudentConfig, Tokenizer
from jdistill.student.hf_folder import at_hand, locate, tokenizer_settings
from jdistill.student.tokenizer_folder import read_tokenizer
from jdistill.student.tokenizer_texts import AWKWARD
from jdistill.teacher.tokens import Answer, Question, ask, transformers_version

LENGTHS = (None, 16)
"""Texts are compared in full and truncated to this many tokens, which reveals the truncation side."""

SHOWN = 12
"""Maximum number of tokens shown in a message."""


class Compared(NamedTuple):
    """Result of a comparison."""

    line: str
    """Summary for the user."""
    equal: bool
    """True if all tokens were equal; False if they could not be compared."""


def check_tokenizer(recipe: Recipe, *, download: bool) -> Compared | None:
    """Tokenize a few dozen difficult texts here and with transformers, and compare the tokens.

    Returns None if the folder cannot be read: building the student reports the error.

    Args:
      recipe: its `student` is used.
      download: whether hub models may be downloaded; if not, only cached ones are compared.

    Returns:
      The result; None if transformers is not installed, `student.check_tokenizer` is off, or the model has no
      transformers tokenizer, such as a table of token vectors.

    Raises:
      UserError: if tokens differ.
    """
    version = transformers_version()
    if version is None or not recipe.student.check_tokenizer:
        return None
    try:
        found = _question(recipe.student, download=download)
        theirs = None if found is None else ask(found[0])
    except UserError:
        return None
    if found is None or theirs is None:
        return None
    question, tokenizer = found
    if theirs.failure:
        line = f"tokens not compared: transformers {version} cannot load the tokenizer: {theirs.failure}"
        return Compared(line, equal=False)
    differing = difference(question, tokens_of(tokenizer, question), theirs)
    if differing is not None:
        where = "student.init" if recipe.student.tokenizer is None else "student.tokenizer"
        raise UserError(
            f"{where}: {question.folder}: transformers {version} loads its tokenizer as {theirs.name}, whose tokens "
            f"differ from jdistill's. {differing} {_advice(version)}"
        )
    line = f"same tokens as {theirs.name} of transformers {version} on {len(question.texts)} difficult texts"
    return Compared(line, equal=True)


def _question(config: StudentConfig, *, download: bool) -> tuple[Question, Tokenizer] | None:
    """The texts and settings to compare, and the student's tokenizer; None if there is nothing to compare with."""
    own = config.tokenizer is not None
    name, revision = (config.tokenizer, None) if own else (config.init, config.revision)
    assert name is not None  # StudentConfig requires init or tokenizer
    folder = locate(name, revision=revision, tokenizer_only=own) if download else at_hand(name, revision=revision)
    if folder is None:
        return None
    places = [folder] if own else transformers_in(folder)
    if not places:
        return None
    settings = None if own else tokenizer_settings(folder)
    options, lowercase = ({}, False) if settings is None else (settings.tokenizer, settings.lowercase)
    tokenizer = read_tokenizer(places[0], options=options, lowercase=lowercase)
    return Question(str(places[0]), options, lowercase, AWKWARD, LENGTHS), tokenizer


def tokens_of(tokenizer: Tokenizer, question: Question) -> list[list[list[int]]]:
    """The tokens that jdistill makes of each text, for each length."""
    return [tokenizer.encode(list(question.texts), length) for length in question.lengths]


def difference(question: Question, ours: Sequence[Sequence[Sequence[int]]], theirs: Answer) -> str | None:
    """How many texts differ, and how the first of them differs; None if none does."""
    differing = [
        (text, length, here, there)
        for length, mine, other in zip(question.lengths, ours, theirs.ids, strict=True)
        for text, here, there in zip(question.texts, mine, other, strict=True)
        if list(here) != list(there)
    ]
    if not differing:
        return None
    text, length, here, there = differing[0]
    cut = "" if length is None else f" (truncated to {length} tokens)"
    start, mine, other = _excerpts(here, there)
    behind = f", from token {start} on" if start else ""
    count = len({text for text, *_ in differing})
    return (
        f"{count} of {len(question.texts)} difficult texts differ, the first is {text[:60]!r}{cut}: token ids {other} "
        f"in transformers, {mine} in jdistill{behind}."
    )


def _excerpts(here: Sequence[int], there: Sequence[int]) -> tuple[int, str, str]:
    """Index of the first token shown, and both lists from there on, such that the first difference is visible."""
    same = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    start = 0 if same < SHOWN else same - 2
    return start, _shortened(here[start:]), _shortened(there[start:])


def _shortened(ids: Sequence[int]) -> str:
    listed = ", ".join(map(str, ids[:SHOWN]))
    return f"[{listed}, and {len(ids) - SHOWN} more]" if len(ids) > SHOWN else f"[{listed}]"


def _advice(version: str) -> str:
    first = (
        "Install transformers 5, whose tokenizers jdistill follows"
        if version.partition(".")[0] == "4"
        else "Re-save the tokenizer with AutoTokenizer.from_pretrained(folder).save_pretrained(new) and set new as "
        "student.tokenizer, or download the model's tokenizer files again"
    )
    return f"{first}; or keep jdistill's tokens with student.check_tokenizer=false."
