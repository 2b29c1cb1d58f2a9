"""WordPiece: a word is cut into the longest tokens that fit, from its beginning on, as in BERT."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any


class WordPiece:
    """The `model` section of a WordPiece tokenizer.json.

    A word whose tokens are all kept is cut as before: at each place the longest token that fits is the same, since
    there are no new ones. A word that was unknown because of a character that no token has stays so.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._mark: str = model.get("continuing_subword_prefix", "##")
        self.ids: dict[str, int] = dict(model["vocab"])

    def always(self) -> set[str]:
        """The unknown token."""
        return {self._model["unk_token"]} & self.ids.keys()

    def letters(self, characters: Iterable[str]) -> set[str]:
        """At the beginning of a word and within."""
        return {form for c in characters for form in (c, self._mark + c)} & self.ids.keys()

    def parts(self, token: str) -> set[str]:
        """None: tokens stand by themselves."""
        return set()

    def plain(self, token: str) -> str:
        """Without `##`."""
        return token.removeprefix(self._mark)

    def rebuilt(self, kept: Collection[str], new: Mapping[str, int]) -> dict[str, Any]:
        """The section with these tokens alone."""
        return {**self._model, "vocab": {token: new[token] for token in sorted(kept, key=new.__getitem__)}}
