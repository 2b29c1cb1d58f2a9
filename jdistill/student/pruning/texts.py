"""The training texts that pruning reads: a sample to run the encoder on, and all of them to count tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Int

COUNTED = 1_000_000
"""At most this many texts are counted."""

_CHUNK = 8192


class PromptedIds(NamedTuple):
    """Texts with the same prompt."""

    ids: Int[np.ndarray, "..."]
    """Ids of the texts; duplicates count once."""
    prompt: str
    """Prepended to each text."""


class PruningTexts:
    """Training texts by id, with their prompts. Sampling depends only on the seed and the texts.

    Args:
      take: ids -> texts.
      groups: such as queries and documents.
      seed: random seed of the samples.
    """

    def __init__(
        self, take: Callable[[Int[np.ndarray, " n"]], list[str]], groups: Sequence[PromptedIds], *, seed: int
    ) -> None:
        self._take, self._seed = take, seed
        self._groups = [PromptedIds(np.unique(group.ids), group.prompt) for group in groups]

    @classmethod
    def of(cls, texts: Sequence[str], *, seed: int = 0) -> Self:
        """Texts that already include their prompts."""
        listed = list(texts)
        return cls(lambda ids: [listed[i] for i in ids], [PromptedIds(np.arange(len(listed)), "")], seed=seed)

    def sample(self, count: int) -> list[str]:
        """At most `count` random texts, alternating between the groups."""
        each = -(-count // len(self._groups))
        drawn = [self._texts(self._draw(group, each), group.prompt) for group in self._groups]
        longest = max(len(texts) for texts in drawn)
        return [texts[i] for i in range(longest) for texts in drawn if i < len(texts)][:count]

    def chunks(self) -> Iterator[list[str]]:
        """All texts, in chunks of a few thousand; beyond COUNTED, a random fraction of each group."""
        share = min(1.0, COUNTED / max(1, sum(len(group.ids) for group in self._groups)))
        for group in self._groups:
            # Sorted, so that the store is read from front to back.
            ids = group.ids if share == 1.0 else np.sort(self._draw(group, int(share * len(group.ids))))
            for start in range(0, len(ids), _CHUNK):
                yield self._texts(ids[start : start + _CHUNK], group.prompt)

    def _draw(self, group: PromptedIds, count: int) -> Int[np.ndarray, " n"]:
        order = np.random.default_rng(self._seed).permutation(len(group.ids))
        return group.ids[order[:count]]

    def _texts(self, ids: Int[np.ndarray, " n"], prompt: str) -> list[str]:
        return [prompt + text for text in self._take(ids)]
