"""Selects the tokens of a smaller vocabulary by their frequency in the training texts."""

import re
import string
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from jdistill.config import UserError
from jdistill.student.pruning.config import Vocabulary
from jdistill.student.pruning.pieces import SubwordModel
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
    for texts in tqdm(chunks, desc="count tokens", unit=" chunks", disable=None, leave=False):
        rows = tokenizer.encode(texts, max_length)
        counts += np.bincount(np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64), minlength=size)
    return counts


def kept_tokens(
    vocabulary: Vocabulary,
    pieces: SubwordModel,
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
      pieces: model of the tokenizer.
      ids: ids of all tokens, added tokens included.
      special: tokens to keep whatever their count.
      counts: count of each id.

    Raises:
      UserError: if the tokens that are always kept exceed the size.
    """
    seen = {token for token in pieces.ids if counts[ids[token]]}
    characters = {c for token in seen for c in pieces.plain(token)} | set(string.printable) | {"▁"}
    kept = {*special, *pieces.always(), *pieces.letters(characters)}
    size, least = vocabulary.size or len(ids), vocabulary.min_count or 0
    if len(kept) > size:
        raise UserError(
            f"student.vocabulary.size: is {size}, but {len(kept)} tokens are required: special tokens, bytes, and the "
            "characters of the training texts. Choose a larger size."
        )
    order = sorted(ids, key=lambda token: (-counts[ids[token]], bool(PLACEHOLDER.fullmatch(token)), ids[token]))
    for token in order:
        if len(kept) == size or counts[ids[token]] < least:
            break
        more = {token, *(pieces.parts(token) if token in pieces.ids else ())} - kept
        if len(kept) + len(more) <= size:
            kept |= more
    return sorted(kept, key=ids.__getitem__)
