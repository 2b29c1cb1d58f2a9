"""A smaller vocabulary: the tokens that occur most in the texts, and a tokenizer rebuilt with only these.

The tokenizer keeps its rules; ids are contiguous and in the old order.
"""

import copy
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.progress import counted
from jdistill.student.pruning.config import Vocabulary
from jdistill.student.pruning.subwords import SubwordModel
from jdistill.student.tokenizer import Tokenizer

PLACEHOLDER = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")
"""Unused placeholder tokens; kept only after all others."""


def count_tokens(
    tokenizer: Tokenizer, chunks: Iterable[list[str]], *, max_length: int | None, size: int
) -> Int[np.ndarray, " v"]:
    """How often each token occurs in texts as the student reads them, special tokens included.

    Args:
      tokenizer: the tokenizer.
      chunks: the texts with their prompts, in chunks of a few thousand.
      max_length: texts are truncated to this many tokens.
      size: length of the result; all ids are smaller.
    """
    counts = np.zeros(size, np.int64)
    for texts in counted(chunks, "count tokens", unit="chunks"):
        rows = tokenizer.encode(texts, max_length)
        # The empty array makes the concatenation of no texts possible.
        counts += np.bincount(np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64), minlength=size)
    return counts


def kept_tokens(
    vocabulary: Vocabulary,
    subwords: SubwordModel,
    ids: Mapping[str, int],
    special: Iterable[str],
    counts: Int[np.ndarray, " v"],
) -> list[str]:
    """The tokens of the smaller vocabulary, ordered by id.

    Always kept: special tokens, tokens that the tokenizer model requires, and every character of the counted texts and
    of ASCII. Then the most frequent tokens, each with the tokens it is merged from; ties go to the lower id, usually
    the more common token in the language.

    Args:
      vocabulary: how many tokens to keep, or how often a token must occur.
      subwords: model of the tokenizer.
      ids: ids of all tokens, added tokens included.
      special: tokens to keep whatever their count.
      counts: count of each id.

    Raises:
      UserError: if the tokens that are always kept exceed the size.
    """
    seen = {token for token in subwords.ids if counts[ids[token]]}
    # "▁" stands for the space in SentencePiece vocabularies.
    characters = {c for token in seen for c in subwords.plain(token)} | set(string.printable) | {"▁"}
    kept = {*special, *subwords.always(), *subwords.letters(characters)}
    size, least = vocabulary.size or len(ids), vocabulary.min_count or 0
    if len(kept) > size:
        raise UserError(
            f"prune.vocabulary.size: is {size}, but {len(kept)} tokens are required: special tokens, bytes, and the "
            "characters of the training texts. Choose a larger size."
        )
    order = sorted(ids, key=lambda token: (-counts[ids[token]], bool(PLACEHOLDER.fullmatch(token)), ids[token]))
    for token in order:
        # `order` is by count, so none after this one is counted more often.
        if len(kept) == size or counts[ids[token]] < least:
            break
        more = {token, *(subwords.parts(token) if token in subwords.ids else ())} - kept
        # A token without those it is merged from could never be reached.
        if len(kept) + len(more) <= size:
            kept |= more
    return sorted(kept, key=ids.__getitem__)


def special_tokens(tokenizer: Tokenizer) -> set[str]:
    """Special added tokens, tokens named in the settings, and tokens that the post-processor adds to texts."""
    named = {
        content
        for settings in (tokenizer.settings, tokenizer.special_tokens_map)
        for key, value in settings.items()
        if key.endswith(("_token", "_tokens"))
        for content in _contents(value)
    }
    added = {token["content"] for token in tokenizer.definition.get("added_tokens") or [] if token["special"]}
    around = {token for token, _ in _tokens_with_ids(tokenizer.definition.get("post_processor"))}
    return (named | added | around) & tokenizer.ids.keys()


def rebuilt_tokenizer(tokenizer: Tokenizer, subwords: SubwordModel, kept: Sequence[str]) -> Tokenizer:
    """The tokenizer with only these tokens.

    Args:
      tokenizer: the full tokenizer.
      subwords: its model.
      kept: tokens to keep, in the order of their ids.

    Raises:
      UserError: if the library assigns other ids, as it does if added tokens are interleaved with the others.
    """
    new = {token: i for i, token in enumerate(kept)}
    definition = copy.deepcopy(tokenizer.definition)
    definition["model"] = subwords.rebuilt([token for token in kept if token in subwords.ids], new)
    definition["added_tokens"] = [
        {**token, "id": new[token["content"]]}
        for token in definition.get("added_tokens") or []
        if token["content"] in new
    ]
    definition["post_processor"] = _renumbered(definition.get("post_processor"), new)
    # The library numbers added tokens itself and ignores their ids in the file, so they are compared afterwards.
    made = tokenizer.with_files(definition, _companions(tokenizer, kept, new))
    if made.ids != new:
        differing = sorted(token for token in new.keys() | made.ids.keys() if new.get(token) != made.ids.get(token))
        raise UserError(
            f"prune.vocabulary: the tokenizer cannot be rebuilt with fewer tokens, since {', '.join(differing[:3])} "
            "would get different ids. Leave prune.vocabulary out."
        )
    return made


def _companions(tokenizer: Tokenizer, kept: Sequence[str], new: Mapping[str, int]) -> dict[str, str]:
    """The files next to tokenizer.json, with the new ids."""
    files = dict(tokenizer.companions)
    settings = dict(tokenizer.settings)
    if "added_tokens_decoder" in settings:
        known = {entry["content"]: entry for entry in settings["added_tokens_decoder"].values()}
        settings["added_tokens_decoder"] = {str(new[token]): known[token] for token in kept if token in known}
        files["tokenizer_config.json"] = json.dumps(settings, ensure_ascii=False)
    if "added_tokens.json" in files:
        added = json.loads(files["added_tokens.json"])
        files["added_tokens.json"] = json.dumps({token: new[token] for token in added if token in new})
    if "vocab.txt" in files:
        files["vocab.txt"] = "".join(f"{token}\n" for token in kept)
    return files


def _contents(value: Any) -> list[str]:
    """The tokens of a setting: a string, an object with its `content`, or a list of either."""
    values = value if isinstance(value, list) else [value]
    contents = [each.get("content") if isinstance(each, dict) else each for each in values]
    return [content for content in contents if isinstance(content, str)]


def _tokens_with_ids(processor: Any) -> list[tuple[str, int]]:
    """Tokens and ids that a post-processor adds to texts."""
    if processor is None:
        return []
    inner = [pair for each in processor.get("processors") or [] for pair in _tokens_with_ids(each)]
    pairs = [tuple(processor[name]) for name in ("sep", "cls") if isinstance(processor.get(name), list)]
    table = processor.get("special_tokens") if isinstance(processor.get("special_tokens"), dict) else {}
    named = [pair for entry in table.values() for pair in zip(entry["tokens"], entry["ids"], strict=True)]
    return [*inner, *pairs, *named]


def _renumbered(processor: Any, new: Mapping[str, int]) -> Any:
    """The post-processor with the new ids."""
    if processor is None:
        return None
    changed = dict(processor)
    if processor.get("processors"):
        changed["processors"] = [_renumbered(each, new) for each in processor["processors"]]
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            changed[name] = [processor[name][0], new[processor[name][0]]]
    if isinstance(processor.get("special_tokens"), dict):
        changed["special_tokens"] = {
            name: {**entry, "ids": [new[token] for token in entry["tokens"]]}
            for name, entry in processor["special_tokens"].items()
        }
    return changed
