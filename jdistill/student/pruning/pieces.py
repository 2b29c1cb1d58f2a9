"""What a vocabulary is made of, whichever kind of tokenizer it belongs to: which tokens depend on which others."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from jdistill.config import UserError
from jdistill.student.pruning.byte_pairs import BytePairs
from jdistill.student.pruning.unigram import Unigram
from jdistill.student.pruning.wordpiece import WordPiece


class Pieces(Protocol):
    """The `model` section of a tokenizer.json."""

    ids: Mapping[str, int]
    """Token -> id, added tokens apart."""

    def always(self) -> set[str]:
        """Tokens without which other texts would be cut differently, or not at all."""
        ...

    def letters(self, characters: Iterable[str]) -> set[str]:
        """Tokens of one character each, of these characters."""
        ...

    def parts(self, token: str) -> set[str]:
        """Tokens that it is merged from, one merge after the other, itself left out."""
        ...

    def plain(self, token: str) -> str:
        """The token without marks of where in a word it stands."""
        ...

    def rebuilt(self, kept: Collection[str], new: Mapping[str, int]) -> dict[str, Any]:
        """The section with these tokens alone; `new` has the ids of all tokens, added ones too."""
        ...


def pieces_of(definition: Mapping[str, Any], *, where: str) -> Pieces:
    """The pieces of a tokenizer.json.

    Raises:
      UserError: if it is of a kind that cannot be made smaller.
    """
    model = definition["model"]
    kinds = {"WordPiece": WordPiece, "BPE": BytePairs, "Unigram": Unigram}
    kind = model.get("type")
    if kind not in kinds:
        raise UserError(
            f"student.vocabulary: the tokenizer of {where} is of type {kind}, whose vocabulary cannot be made smaller. "
            f"Supported: {', '.join(kinds)}. Leave it out."
        )
    return kinds[kind](model)
