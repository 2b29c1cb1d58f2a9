"""Whether a first batch has something to learn from: a teacher's vectors that say nothing, or belong to other texts."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import sparse

from jdistill.config import UserError
from jdistill.losses import LossConfig
from jdistill.types import Batch, Columns, Tokens

ROWS = 1024
"""Most rows of the first batch that are looked at."""
COLLAPSED = 0.999
"""Vectors of different texts whose mean cosine is above this are nearly equal."""
FEWEST = 48
"""From this number of texts on it is judged whether vectors belong to them. Measured with all-MiniLM-L6-v2 on batches
of 48 English docstrings or captions, or German questions: at most 1 false alarm in 500; 1 shifted column in 20 goes
unseen; below 32 texts false alarms are common."""


class Column(NamedTuple):
    """One column of a batch's texts: its queries, its documents or some of its negatives. Each text once."""

    name: str
    tokens: Tokens
    vectors: dict[str, Float[np.ndarray, "n d"]]
    """Of each teacher."""


def examine(terms: Mapping[str, LossConfig], batch: Batch) -> list[str]:
    """What is wrong with the targets of a first batch, one line per problem.

    Args:
      terms: the loss terms, teachers filled in.
      batch: arrays of NumPy, all rows or those of this host.

    Raises:
      UserError: if a teacher's vector holds NaN or infinity.
    """
    columns = columns_of(batch)
    found = []
    for teacher in batch.targets:
        users = ", ".join(f"losses.{name}" for name, term in terms.items() if teacher in term.teachers)
        if users:
            _require_finite(f"{users}: teacher '{teacher}'", teacher, columns)
            found += [f"{users}: teacher '{teacher}': {problem}" for problem in _problems(teacher, columns)]
    scores = None if batch.scores is None else jnp.asarray(batch.scores[:ROWS])
    for name, term in terms.items():
        found += [f"losses.{name}: {problem}" for problem in term.examine(_side_by_side(batch, term.teachers), scores)]
    return found


def columns_of(batch: Batch) -> list[Column]:
    """The columns of the first rows of a batch."""
    columns = []
    if batch.queries is not None and batch.query_ids is not None:
        vectors = {teacher: target.queries for teacher, target in batch.targets.items()}
        columns.append(_column("queries", batch.queries, batch.query_ids, vectors))
    for c in range(batch.document_ids.shape[1]):
        tokens = Tokens(batch.documents.ids[:, c], batch.documents.mask[:, c])
        vectors = {teacher: target.documents[:, c] for teacher, target in batch.targets.items()}
        columns.append(_column(f"negatives {c}" if c else "documents", tokens, batch.document_ids[:, c], vectors))
    return columns


def _column(name: str, tokens: Tokens, ids: Any, vectors: Mapping[str, Any]) -> Column:
    _, first = np.unique(np.asarray(ids[:ROWS]), return_index=True)  # equal texts would be each other's neighbours
    kept = Tokens(np.asarray(tokens.ids)[first], np.asarray(tokens.mask)[first])  # pyright: ignore[reportArgumentType]
    return Column(name, kept, {key: np.asarray(value)[first] for key, value in vectors.items() if value is not None})


def _require_finite(where: str, teacher: str, columns: list[Column]) -> None:
    for column in columns:
        finite = np.isfinite(column.vectors[teacher]).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{where}: {finite.size - finite.sum()} of {finite.size} vectors of the first batch's {column.name} "
                "hold NaN or infinity. Nothing can be learned from them. Embed the texts again with "
                f"teachers.{teacher}.precision: float32, or repair the vectors where they come from."
            )


def _problems(teacher: str, columns: list[Column]) -> list[str]:
    zero, collapsed, apart = [], [], []
    for column in columns:
        vectors = column.vectors[teacher]
        if not vectors.any():
            zero.append(column.name)
        elif mean_cosine(vectors) > COLLAPSED:
            collapsed.append(column.name)
        else:
            ranks = neighbour_ranks(column.tokens, vectors)
            if len(ranks) >= FEWEST and ranks.mean() < 0.5 + 2 / math.sqrt(12 * len(ranks)):
                apart.append(f"{column.name} {ranks.mean():.0%}")
    problems = []
    if zero:
        problems.append(
            f"all vectors of the first batch's {' and '.join(zero)} are zero, so there is nothing to learn from. "
            "Embed the texts again."
        )
    if collapsed:
        problems.append(
            f"the vectors of the first batch's {' and '.join(collapsed)} are nearly equal (mean cosine above "
            f"{COLLAPSED}), so they tell no texts apart. Check the teacher's pooling, prompts and precision."
        )
    if apart:
        problems.append(
            "its vectors do not seem to belong to their texts: of a text's most similar text by words, the vector is "
            f"closer than only {', '.join(apart)} of the others' (by chance 50%). Check that texts and vectors were "
            "joined in the same order, and that it is a teacher for this language."
        )
    return problems


def mean_cosine(vectors: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine of different rows; 0 where there are not two. Zero rows count as cosine 0."""
    unit = _unit(vectors)
    n = len(unit)
    return float((np.square(unit.sum(axis=0)).sum() - np.square(unit).sum()) / (n * (n - 1))) if n > 1 else 0.0


def neighbour_ranks(tokens: Tokens, vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " m"]:
    """Where each text's nearest text by shared tokens stands among all others by the vectors' cosine.

    No model is needed for it: texts that share rare words are mostly about the same, and a teacher knows.

    Args:
      tokens: `[n, l]`, of different texts.
      vectors: of the same texts.

    Returns:
      For each of the `m <= n` texts that share a token with another, the share of the others that are farther than
      its neighbour, in [0, 1]: 1/2 by chance, with variance 1/12.
    """
    n = len(vectors)
    if n < 3:
        return np.zeros(0)
    overlap = token_overlap(tokens)
    np.fill_diagonal(overlap, -1.0)
    neighbours = overlap.argmax(axis=1)
    texts = np.flatnonzero(overlap.max(axis=1) > 0)
    unit = _unit(vectors)
    cosines = unit[texts] @ unit.T
    own = cosines[np.arange(len(texts)), neighbours[texts]][:, None]
    others = np.ones_like(cosines, bool)
    others[np.arange(len(texts)), texts] = False
    others[np.arange(len(texts)), neighbours[texts]] = False
    below = ((cosines < own) & others).sum(axis=1) + 0.5 * ((cosines == own) & others).sum(axis=1)
    return below / (n - 2)


def token_overlap(tokens: Tokens) -> Float[np.ndarray, "n n"]:
    """Cosines between the texts' sets of tokens, each token weighted by the logarithm of its rarity.

    Tokens that all texts have, such as special tokens and prompts, thereby do not count.
    """
    ids, real = np.asarray(tokens.ids), np.asarray(tokens.mask)
    n = len(ids)
    texts = np.broadcast_to(np.arange(n)[:, None], ids.shape)[real]
    texts, words = np.unique(np.stack([texts, ids[real]], axis=1), axis=0).T
    rarity = np.log(n / np.maximum(np.bincount(words), 1)).astype(np.float32)
    sets = sparse.csr_array((rarity[words], (texts, words)), shape=(n, len(rarity)))
    lengths = np.sqrt(np.asarray(sets.multiply(sets).sum(axis=1)).ravel())
    return (sets @ sets.T).toarray() / np.maximum(np.outer(lengths, lengths), 1e-9)


def _side_by_side(batch: Batch, teachers: tuple[str, ...]) -> Columns | None:
    """The first rows of the vectors that a term learns from."""
    if not teachers:
        return None
    sides = [batch.targets[teacher] for teacher in teachers]
    queries: Any = None
    if all(side.queries is not None for side in sides):
        queries = jnp.concatenate([jnp.asarray(side.queries)[:ROWS] for side in sides], axis=-1)
    return Columns(queries, jnp.concatenate([jnp.asarray(side.documents)[:ROWS] for side in sides], axis=-1))


def _unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
