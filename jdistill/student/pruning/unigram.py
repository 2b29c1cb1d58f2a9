"""Unigram: a text is split into the most probable sequence of tokens, as in XLM-RoBERTa."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any


class Unigram:
    """The `model` section of a Unigram tokenizer.json, in which a token's id is its index in the list.

    A text whose tokens are all kept is split as before: the best split still exists, and no better one was added. The
    penalty of an unknown character derives from the lowest score, so the token with that score is kept.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._scores: dict[str, float] = dict(model["vocab"])
        self.ids: dict[str, int] = {token: i for i, (token, _) in enumerate(model["vocab"])}

    def always(self) -> set[str]:
        """The unknown token, the token with the lowest score and, with `byte_fallback`, the bytes."""
        tokens = {min(self._scores, key=self._scores.__getitem__)}
        if self._model.get("unk_id") is not None:
            tokens.add(self._model["vocab"][self._model["unk_id"]][0])
        if self._model.get("byte_fallback"):
            tokens |= {f"<0x{byte:02X}>" for byte in range(256)} & self.ids.keys()
        return tokens

    def letters(self, characters: Iterable[str]) -> set[str]:
        """The characters that are tokens."""
        return set(characters) & self.ids.keys()

    def parts(self, token: str) -> set[str]:
        """None: tokens do not depend on others."""
        return set()

    def plain(self, token: str) -> str:
        """The token itself."""
        return token

    def rebuilt(self, kept: Collection[str], new: Mapping[str, int]) -> dict[str, Any]:
        """The section with only these tokens, scores unchanged."""
        order = sorted(kept, key=new.__getitem__)
        unknown = self._model.get("unk_id")
        return {
            **self._model,
            "vocab": [[token, self._scores[token]] for token in order],
            "unk_id": None if unknown is None else order.index(self._model["vocab"][unknown][0]),
        }
