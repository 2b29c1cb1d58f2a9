"""Which tokens a smaller vocabulary keeps, by how often the training texts use them."""

import re
import string
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from jdistill.config import UserError
from jdistill.student.pruning.config import Vocabulary
from jdistill.student.pruning.pieces import Pieces
from jdistill.student.tokenizer import Tokenizer

PLACEHOLDER = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")
"""Tokens that stand for nothing yet: the last to fill a vocabulary."""


def count_tokens(
    tokenizer: Tokenizer, chunks: Iterable[list[str]], *, max_length: int | None, size: int
) -> Int[np.ndarray, " v"]:
    """How often each token occurs in some texts, special tokens included, as far as the student reads them.

    Args:
      tokenizer: of the vocabulary.
      chunks: the texts, with their prompts, some thousand at a time.
      max_length: tokens after which texts are cut.
      size: ids are below.
    """
    counts = np.zeros(size, np.int64)
    for texts in tqdm(chunks, desc="count tokens", unit=" chunks", disable=None, leave=False):
        rows = tokenizer.encode(texts, max_length)
        counts += np.bincount(np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64), minlength=size)
    return counts


def kept_tokens(
    vocabulary: Vocabulary,
    pieces: Pieces,
    ids: Mapping[str, int],
    special: Iterable[str],
    counts: Int[np.ndarray, " v"],
) -> list[str]:
    """The tokens of the smaller vocabulary, by their ids.

    Special tokens, what the kind of tokenizer cannot do without, every character of the counted texts and of ASCII stay
    in any case. Then the most frequent tokens, each with those that it is merged from; of equally frequent ones those
    with the lower ids, which as a rule are the more common in the language.

    Args:
      vocabulary: how many, or how often a token must occur.
      pieces: of the tokenizer.
      ids: of all tokens, added ones too.
      special: tokens that stay whatever their count.
      counts: by id.
    Raises:
      UserError: if these alone are more than may stay.
    """
    seen = {token for token in pieces.ids if counts[ids[token]]}
    characters = {c for token in seen for c in pieces.plain(token)} | set(string.printable) | {"▁"}
    kept = {*special, *pieces.always(), *pieces.letters(characters)}
    size, least = vocabulary.size or len(ids), vocabulary.min_count or 0
    if len(kept) > size:
        raise UserError(
            f"student.vocabulary.size: is {size}, but {len(kept)} tokens have to stay: special tokens, bytes, and the "
            "characters of the training texts. Give a larger number."
        )
    order = sorted(ids, key=lambda token: (-counts[ids[token]], bool(PLACEHOLDER.fullmatch(token)), ids[token]))
    for token in order:
        if len(kept) == size or counts[ids[token]] < least:
            break
        more = {token, *(pieces.parts(token) if token in pieces.ids else ())} - kept
        if len(kept) + len(more) <= size:
            kept |= more
    return sorted(kept, key=ids.__getitem__)
