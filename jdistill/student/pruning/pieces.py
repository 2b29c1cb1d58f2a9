"""A common interface to tokenizer models: which tokens depend on which others."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from jdistill.config import UserError
from jdistill.student.pruning.byte_pairs import BytePairs
from jdistill.student.pruning.unigram import Unigram
from jdistill.student.pruning.wordpiece import WordPiece


class SubwordModel(Protocol):
    """The `model` section of a tokenizer.json."""

    ids: Mapping[str, int]
    """Token -> id, without added tokens."""

    def always(self) -> set[str]:
        """Tokens that must be kept, or other texts would be split differently or not at all."""
        ...

    def letters(self, characters: Iterable[str]) -> set[str]:
        """The single-character tokens of these characters."""
        ...

    def parts(self, token: str) -> set[str]:
        """All intermediate tokens that the token is merged from, without itself."""
        ...

    def plain(self, token: str) -> str:
        """The token without marks of its position in a word."""
        ...

    def rebuilt(self, kept: Collection[str], new: Mapping[str, int]) -> dict[str, Any]:
        """The section with only these tokens; `new` maps all tokens, added ones included, to their new ids."""
        ...


def pieces_of(definition: Mapping[str, Any], *, where: str) -> SubwordModel:
    """The model of a tokenizer.json.

    Raises:
      UserError: if its type is not supported.
    """
    model = definition["model"]
    kinds = {"WordPiece": WordPiece, "BPE": BytePairs, "Unigram": Unigram}
    kind = model.get("type")
    if kind not in kinds:
        raise UserError(
            f"student.vocabulary: the tokenizer of {where} is of type {kind}, whose vocabulary cannot be reduced. "
            f"Supported: {', '.join(kinds)}. Leave student.vocabulary out."
        )
    return kinds[kind](model)
