"""Rebuilds a tokenizer with fewer tokens: the same rules, and contiguous ids in the old order."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jdistill.config import UserError
from jdistill.student.pruning.pieces import SubwordModel
from jdistill.student.tokenizer import Tokenizer


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
    around = {token for token, _ in _referred(tokenizer.definition.get("post_processor"))}
    return (named | added | around) & tokenizer.ids.keys()


def rebuilt(tokenizer: Tokenizer, pieces: SubwordModel, kept: Sequence[str]) -> Tokenizer:
    """The tokenizer with only these tokens.

    Args:
      tokenizer: the full tokenizer.
      pieces: its model.
      kept: tokens to keep, in the order of their ids.

    Raises:
      UserError: if the library assigns other ids, as it does if added tokens are interleaved with the others.
    """
    new = {token: i for i, token in enumerate(kept)}
    definition = copy.deepcopy(tokenizer.definition)
    definition["model"] = pieces.rebuilt([token for token in kept if token in pieces.ids], new)
    definition["added_tokens"] = [
        {**token, "id": new[token["content"]]}
        for token in definition.get("added_tokens") or []
        if token["content"] in new
    ]
    definition["post_processor"] = _renumbered(definition.get("post_processor"), new)
    made = tokenizer.with_files(definition, _companions(tokenizer, kept, new))
    if made.ids != new:
        differing = sorted(token for token in new.keys() | made.ids.keys() if new.get(token) != made.ids.get(token))
        raise UserError(
            f"student.vocabulary: the tokenizer cannot be rebuilt with fewer tokens, since {', '.join(differing[:3])} "
            "would get different ids. Leave student.vocabulary out."
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


def _referred(processor: Any) -> list[tuple[str, int]]:
    """Tokens and ids that a post-processor adds to texts."""
    if processor is None:
        return []
    inner = [pair for each in processor.get("processors") or [] for pair in _referred(each)]
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
