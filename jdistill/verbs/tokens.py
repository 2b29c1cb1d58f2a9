"""Whether a student's tokens are those that its users will have: asked of transformers before anything is trained."""

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
"""Texts are compared whole, and cut after so many tokens, which shows from which end they are cut."""

SHOWN = 12
"""Tokens that a message shows."""


class Compared(NamedTuple):
    """What came of a comparison."""

    line: str
    """For people."""
    equal: bool
    """Whether all tokens were the same; if not, they could not be compared."""


def check_tokenizer(recipe: Recipe, *, download: bool) -> Compared | None:
    """Compare the tokens of a few dozen awkward texts with those that transformers makes of the tokenizer's folder.

    Where the folder cannot be read, nothing is said: making the student tells why.

    Args:
      recipe: its `student` is used.
      download: whether a model of the hub may be downloaded; else it is compared only where it has been.

    Returns:
      What was compared; None where transformers is not installed, the recipe asks for no comparison, or there is no
      transformer's tokenizer, as in a table of token vectors, which is read without transformers.

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
        line = f"tokens not compared with transformers {version}, which cannot load the tokenizer: {theirs.failure}"
        return Compared(line, equal=False)
    differing = difference(question, tokens_of(tokenizer, question), theirs)
    if differing is not None:
        where = "student.init" if recipe.student.tokenizer is None else "student.tokenizer"
        raise UserError(
            f"{where}: {question.folder}: transformers {version} reads its tokenizer as {theirs.name}, which makes "
            f"other tokens than are made here. {differing} {_advice(version)}"
        )
    line = f"tokens as {theirs.name} of transformers {version} makes them, of {len(question.texts)} awkward texts"
    return Compared(line, equal=True)


def _question(config: StudentConfig, *, download: bool) -> tuple[Question, Tokenizer] | None:
    """What to ask of the tokenizer that the student reads, and that tokenizer; None if there is none to ask for."""
    own = config.tokenizer is not None
    name, revision = (config.tokenizer, None) if own else (config.init, config.revision)
    assert name is not None  # StudentConfig lets none through without
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
    """Our answer: for each length, the tokens of each text."""
    return [tokenizer.encode(list(question.texts), length) for length in question.lengths]


def difference(question: Question, ours: Sequence[Sequence[Sequence[int]]], theirs: Answer) -> str | None:
    """How many texts differ, and how the first of them does, in two sentences; None if none differs."""
    differing = [
        (text, length, here, there)
        for length, mine, other in zip(question.lengths, ours, theirs.ids, strict=True)
        for text, here, there in zip(question.texts, mine, other, strict=True)
        if list(here) != list(there)
    ]
    if not differing:
        return None
    text, length, here, there = differing[0]
    cut = "" if length is None else f", cut after {length} tokens"
    start, mine, other = _excerpts(here, there)
    behind = f", from token {start} on" if start else ""
    count = len({text for text, *_ in differing})
    return (
        f"Of {len(question.texts)} awkward texts {count} differ, {text[:60]!r}{cut} the first: token ids {other} "
        f"there, {mine} here{behind}."
    )


def _excerpts(here: Sequence[int], there: Sequence[int]) -> tuple[int, str, str]:
    """Number of the first token that is shown, and both lists from it on, so that the first difference is seen."""
    same = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    start = 0 if same < SHOWN else same - 2
    return start, _shortened(here[start:]), _shortened(there[start:])


def _shortened(ids: Sequence[int]) -> str:
    listed = ", ".join(map(str, ids[:SHOWN]))
    return f"[{listed}, and {len(ids) - SHOWN} more]" if len(ids) > SHOWN else f"[{listed}]"


def _advice(version: str) -> str:
    first = (
        "Install transformers 5, whose tokenizers are those that are read here"
        if version.partition(".")[0] == "4"
        else "Let transformers write the tokenizer anew, AutoTokenizer.from_pretrained(folder).save_pretrained(new), "
        "and name that as student.tokenizer, or download the model's tokenizer files again"
    )
    return f"{first}; or train with the tokens of here all the same: student.check_tokenizer=false."
