"""WordPiece: a word is split greedily into the longest matching tokens, as in BERT."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any


class WordPiece:
    """The `model` section of a WordPiece tokenizer.json.

    A word whose tokens are all kept is split as before: no tokens are added, so the longest match stays the same. A
    word that was unknown because of a character without a token stays unknown.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._mark: str = model.get("continuing_subword_prefix", "##")
        self.ids: dict[str, int] = dict(model["vocab"])

    def always(self) -> set[str]:
        """The unknown token."""
        return {self._model["unk_token"]} & self.ids.keys()

    def letters(self, characters: Iterable[str]) -> set[str]:
        """Tokens of these characters at the start of a word and within one."""
        return {form for c in characters for form in (c, self._mark + c)} & self.ids.keys()

    def parts(self, token: str) -> set[str]:
        """None: tokens do not depend on others."""
        return set()

    def plain(self, token: str) -> str:
        """The token without `##`."""
        return token.removeprefix(self._mark)

    def rebuilt(self, kept: Collection[str], new: Mapping[str, int]) -> dict[str, Any]:
        """The section with only these tokens."""
        return {**self._model, "vocab": {token: new[token] for token in sorted(kept, key=new.__getitem__)}}
