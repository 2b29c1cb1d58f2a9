"""Checks of the first batch for uninformative teacher vectors, or vectors that belong to other texts."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import sparse

from jdistill.config import UserError
from jdistill.losses import LossConfig
from jdistill.types import Batch, PairEmbeddings, Tokens
from jdistill.unit_length import unit_length

ROWS = 1024
"""Maximum number of rows of the first batch that are examined."""
COLLAPSED = 0.999
"""Vectors of different texts count as nearly equal if their mean cosine is above this."""
FEWEST = 48
"""Minimum number of texts to judge whether vectors belong to them. Measured with all-MiniLM-L6-v2 on batches of 48
English docstrings or captions, or German questions: at most 1 false alarm in 500, and 1 in 20 shifted columns missed;
below 32 texts false alarms are common."""


class Column(NamedTuple):
    """The distinct texts of one column of a batch: queries, documents, or the negatives at one position."""

    name: str
    tokens: Tokens
    vectors: dict[str, Float[np.ndarray, "n d"]]
    """Teacher -> vectors."""


def check_targets(terms: Mapping[str, LossConfig], batch: Batch) -> list[str]:
    """Problems of the first batch's targets, one line each.

    Args:
      terms: the loss terms, teachers filled in.
      batch: NumPy arrays, all rows or those of this host.

    Raises:
      UserError: if a teacher's vector contains NaN or infinity.
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
        found += [
            f"losses.{name}: {problem}" for problem in term.check_targets(_side_by_side(batch, term.teachers), scores)
        ]
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
                f"contain NaN or infinity. Embed the texts again with teachers.{teacher}.precision: float32, or repair "
                "imported vectors at their source."
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
            # Less than two standard errors above chance: the mean of m ranks has variance 1 / (12 m).
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
            f"{COLLAPSED}), so they do not distinguish texts. Check the teacher's pooling, prompts and precision."
        )
    if apart:
        problems.append(
            "its vectors do not seem to belong to their texts: the text that shares most words with a text has a "
            f"closer vector than only {', '.join(apart)} of the others (50% by chance). Check that texts and vectors "
            "are in the same order, and that the teacher supports this language."
        )
    return problems


def mean_cosine(vectors: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine between different rows; 0 for fewer than two rows. Zero rows have cosine 0."""
    unit = unit_length(vectors.astype(np.float32))
    n = len(unit)
    # sum_{i != j} u_i.u_j = |sum_i u_i|^2 - sum_i |u_i|^2
    return float((np.square(unit.sum(axis=0)).sum() - np.square(unit).sum()) / (n * (n - 1))) if n > 1 else 0.0


def neighbour_ranks(tokens: Tokens, vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " m"]:
    """Rank, by cosine of the vectors, of each text's nearest neighbour by shared tokens.

    Needs no model: texts that share rare words tend to have the same topic, so a teacher should place them close.

    Args:
      tokens: `[n, l]`, of different texts.
      vectors: `[n, d]`, of the same texts.

    Returns:
      For each of the `m <= n` texts that share a token with another, the fraction of other texts that are farther away
      than its neighbour, in [0, 1]: 1/2 by chance, with variance 1/12.
    """
    n = len(vectors)
    if n < 3:
        return np.zeros(0)
    overlap = token_overlap(tokens)
    # No text is its own neighbour, and one that shares no token with any other has none.
    np.fill_diagonal(overlap, -1.0)
    neighbours = overlap.argmax(axis=1)
    texts = np.flatnonzero(overlap.max(axis=1) > 0)
    unit = unit_length(vectors.astype(np.float32))
    cosines = unit[texts] @ unit.T
    own = cosines[np.arange(len(texts)), neighbours[texts]][:, None]
    # All but the text and its neighbour, n - 2. Ties count half, so that equal vectors give 1/2, not 0.
    others = np.ones_like(cosines, bool)
    others[np.arange(len(texts)), texts] = False
    others[np.arange(len(texts)), neighbours[texts]] = False
    below = ((cosines < own) & others).sum(axis=1) + 0.5 * ((cosines == own) & others).sum(axis=1)
    return below / (n - 2)


def token_overlap(tokens: Tokens) -> Float[np.ndarray, "n n"]:
    """Cosines between the texts' token sets, weighted by inverse document frequency.

    Tokens in all texts, such as special tokens and prompts, thus have weight 0.
    """
    ids, real = np.asarray(tokens.ids), np.asarray(tokens.mask)
    n = len(ids)
    texts = np.broadcast_to(np.arange(n)[:, None], ids.shape)[real]
    # Sets: a token counts once in a text, however often it occurs.
    texts, words = np.unique(np.stack([texts, ids[real]], axis=1), axis=0).T
    rarity = np.log(n / np.maximum(np.bincount(words), 1)).astype(np.float32)
    sets = sparse.csr_array((rarity[words], (texts, words)), shape=(n, len(rarity)))
    lengths = np.sqrt(np.asarray(sets.multiply(sets).sum(axis=1)).ravel())
    return (sets @ sets.T).toarray() / np.maximum(np.outer(lengths, lengths), 1e-9)


def _side_by_side(batch: Batch, teachers: tuple[str, ...]) -> PairEmbeddings | None:
    """The first rows of a term's target vectors, several teachers concatenated."""
    if not teachers:
        return None
    sides = [batch.targets[teacher] for teacher in teachers]
    queries: Any = None
    if all(side.queries is not None for side in sides):
        queries = jnp.concatenate([jnp.asarray(side.queries)[:ROWS] for side in sides], axis=-1)
    return PairEmbeddings(queries, jnp.concatenate([jnp.asarray(side.documents)[:ROWS] for side in sides], axis=-1))
