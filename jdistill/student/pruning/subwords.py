"""The subword models of tokenizers: which tokens depend on which others, and how to leave tokens out."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from tokenizers.pre_tokenizers import ByteLevel

from jdistill.config import UserError


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


def subword_model(definition: Mapping[str, Any], *, where: str) -> SubwordModel:
    """The model of a tokenizer.json.

    Raises:
      UserError: if its type is not supported.
    """
    model = definition["model"]
    kinds = {"WordPiece": WordPiece, "BPE": BytePairs, "Unigram": Unigram}
    kind = model.get("type")
    if kind not in kinds:
        raise UserError(
            f"prune.vocabulary: the tokenizer of {where} is of type {kind}, whose vocabulary cannot be reduced. "
            f"Supported: {', '.join(kinds)}. Leave prune.vocabulary out."
        )
    return kinds[kind](model)


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
            # The id is an index in the list of the model, not counting added tokens.
            "unk_id": None if unknown is None else order.index(self._model["vocab"][unknown][0]),
        }


class BytePairs:
    """The `model` section of a BPE tokenizer.json.

    A text whose tokens are all kept is split as before: `parts` keeps every merge that leads to them, and no merge is
    added that could take precedence. Merges within a token do not depend on its neighbours, since no merge crossed its
    boundaries.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._mark: str = model.get("continuing_subword_prefix") or ""
        self._end: str = model.get("end_of_word_suffix") or ""
        self.ids: dict[str, int] = dict(model["vocab"])
        self._pairs: list[tuple[str, str]] = [_pair(merge) for merge in model["merges"]]
        # Reversed, so that of a merge listed twice the first, with precedence, stays.
        self._ranks = {pair: rank for rank, pair in reversed(list(enumerate(self._pairs)))}

    def always(self) -> set[str]:
        """The unknown token, and all bytes if the tokenizer falls back to bytes."""
        tokens = {self._model.get("unk_token") or ""}
        if self._byte_level:
            tokens |= self.letters(ByteLevel.alphabet())
        if self._model.get("byte_fallback"):
            tokens |= {f"<0x{byte:02X}>" for byte in range(256)}
        return tokens & self.ids.keys()

    def letters(self, characters: Iterable[str]) -> set[str]:
        """Tokens of these characters at every position of a word."""
        return {form for c in characters for form in self._forms(c)} & self.ids.keys()

    def parts(self, token: str) -> set[str]:
        """Every intermediate token; none if no merges lead to it, as when whole words are looked up first."""
        symbols, seen = self._symbols(token), set()
        while len(symbols) > 1:
            seen |= {*symbols}
            ranks = [self._ranks.get(pair) for pair in itertools.pairwise(symbols)]
            known = [(rank, place) for place, rank in enumerate(ranks) if rank is not None]
            if not known:
                return set()
            # The merge with the lowest rank, and of several the leftmost, as the library applies merges.
            place = min(known)[1]
            symbols[place : place + 2] = [self._merged(*symbols[place : place + 2])]
        # Merges that end elsewhere do not make this token.
        return seen & self.ids.keys() if symbols == [token] else set()

    def plain(self, token: str) -> str:
        """The token without prefix and suffix marks."""
        return token.removeprefix(self._mark).removesuffix(self._end)

    def rebuilt(self, kept: Collection[str], new: Mapping[str, int]) -> dict[str, Any]:
        """The section with only these tokens and the merges among them."""
        known = set(kept)
        merges = [
            merge
            for merge, pair in zip(self._model["merges"], self._pairs, strict=True)
            # A merge whose result or part is no token makes the library refuse the file.
            if {*pair, self._merged(*pair)} <= known
        ]
        return {
            **self._model,
            "vocab": {token: new[token] for token in sorted(kept, key=new.__getitem__)},
            "merges": merges,
        }

    @property
    def _byte_level(self) -> bool:
        """Whether every byte is a token, as in a byte-level vocabulary."""
        return set(ByteLevel.alphabet()) <= {self.plain(token) for token in self.ids if len(self.plain(token)) == 1}

    def _forms(self, character: str) -> tuple[str, ...]:
        both = character + self._end
        return character, self._mark + character, both, self._mark + both

    def _merged(self, left: str, right: str) -> str:
        # The right part's mark, such as `##`, goes when it is no longer at the start of a token.
        return left + right[len(self._mark) :]

    def _symbols(self, token: str) -> list[str]:
        """The characters of a token, marked as in a word."""
        inner, ends = token.startswith(self._mark) and self._mark != "", self._end != "" and token.endswith(self._end)
        characters = list(self.plain(token))
        symbols = [self._mark + c if i > 0 or inner else c for i, c in enumerate(characters)]
        if ends and symbols:
            symbols[-1] += self._end
        return symbols


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge in either form of tokenizer.json, `"a b"` or `["a", "b"]`."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right
