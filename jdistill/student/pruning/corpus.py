"""The training texts that pruning reads: a sample to run the encoder on, and all of them to count tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Int

COUNTED = 1_000_000
"""At most this many texts are counted."""

_CHUNK = 8192


class Side(NamedTuple):
    """Texts with the same prompt."""

    ids: Int[np.ndarray, "..."]
    """Ids of the texts; duplicates count once."""
    prompt: str
    """Prepended to each text."""


class Corpus:
    """Training texts by id, each side with its prompt. Sampling depends only on the seed and the texts.

    Args:
      take: ids -> texts.
      sides: such as queries and documents.
      seed: random seed of the samples.
    """

    def __init__(self, take: Callable[[Int[np.ndarray, " n"]], list[str]], sides: Sequence[Side], *, seed: int) -> None:
        self._take, self._seed = take, seed
        self._sides = [Side(np.unique(side.ids), side.prompt) for side in sides]

    @classmethod
    def of(cls, texts: Sequence[str], *, seed: int = 0) -> Self:
        """A corpus of texts that already include their prompts."""
        listed = list(texts)
        return cls(lambda ids: [listed[i] for i in ids], [Side(np.arange(len(listed)), "")], seed=seed)

    def sample(self, count: int) -> list[str]:
        """At most `count` random texts, alternating between the sides."""
        drawn = [self._texts(self._draw(side, -(-count // len(self._sides))), side.prompt) for side in self._sides]
        longest = max(len(texts) for texts in drawn)
        return [texts[i] for i in range(longest) for texts in drawn if i < len(texts)][:count]

    def chunks(self) -> Iterator[list[str]]:
        """All texts, in chunks of a few thousand; beyond COUNTED, a random fraction of each side."""
        share = min(1.0, COUNTED / max(1, sum(len(side.ids) for side in self._sides)))
        for side in self._sides:
            ids = side.ids if share == 1.0 else np.sort(self._draw(side, int(share * len(side.ids))))
            for start in range(0, len(ids), _CHUNK):
                yield self._texts(ids[start : start + _CHUNK], side.prompt)

    def _draw(self, side: Side, count: int) -> Int[np.ndarray, " n"]:
        order = np.random.default_rng(self._seed).permutation(len(side.ids))
        return side.ids[order[:count]]

    def _texts(self, ids: Int[np.ndarray, " n"], prompt: str) -> list[str]:
        return [prompt + text for text in self._take(ids)]
