"""Stand-ins for an open store: rows, tokens and teacher vectors that follow from text numbers alone."""

from typing import Any, Literal, NamedTuple

import numpy as np

from jdistill.loader import Loader, LoaderConfig


class FakeRows(NamedTuple):
    queries: np.ndarray | None
    documents: np.ndarray
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None


class FakeTokens:
    """Text `t` is the token `t % vocabulary`, repeated `lengths[t]` times."""

    def __init__(self, lengths: np.ndarray, vocabulary: int = 50):
        self.lengths = lengths.astype(np.int32)
        self.vocabulary = vocabulary

    def pad(self, ids: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = self.lengths[ids]
        assert lengths.max() <= length, "a text would be cut"
        mask = np.arange(length) < lengths[..., None]
        return np.where(mask, (ids % self.vocabulary)[..., None], 0).astype(np.int32), mask


class FakeTeacher:
    """A fixed random unit vector per text and side."""

    def __init__(self, texts: int, width: int = 6):
        rng = np.random.default_rng(7)
        self.vectors = {}
        for side in ("query", "document"):
            vectors = rng.normal(size=(texts, width)).astype(np.float32)
            self.vectors[side] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def take(self, ids: np.ndarray, side: Literal["query", "document"]) -> np.ndarray:
        return self.vectors[side][ids]


def make_loader(
    *,
    n: int = 100,
    texts: int = 400,
    batch: int = 16,
    columns: int = 1,
    queries: bool = True,
    scores: int = 0,
    longest: int = 40,
    seed: int = 0,
    pieces: int = 1,
    prompts: dict[Any, int] | None = None,
    rows: FakeRows | None = None,
    lengths: np.ndarray | None = None,
    **options: object,
) -> Loader:
    """A loader of random rows with so many `scores` each; `options` are those of LoaderConfig."""
    rng = np.random.default_rng(3)
    if lengths is None:
        lengths = rng.integers(2, longest + 1, texts)
    if rows is None:
        numbers = rng.integers(0, texts, (n, 1 + columns)).astype(np.int32)
        rows = FakeRows(
            numbers[:, 0] if queries else None,
            numbers[:, 1:],
            rng.random((n, scores)).astype(np.float32) if scores else None,
        )
    tokens = FakeTokens(lengths)
    return Loader(
        LoaderConfig.model_validate(options),
        rows=rows,
        queries=tokens if rows.queries is not None else None,
        documents=tokens,
        teachers={"big": FakeTeacher(len(lengths))},
        global_batch_size=batch,
        seed=seed,
        pieces=pieces,
        prompts=prompts,
    )
