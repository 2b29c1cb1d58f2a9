"""Operands of score matrices: the row's text, and the batch's candidates or the row's own documents.

In rows of plain texts, which have no query, the text takes its place and is scored against the others.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.losses.base import TEXTS, Direction, local_candidates, queries_of
from jdistill.losses.maths import Similarity, float32, unit
from jdistill.types import LossInputs, PairEmbeddings, Side
from jdistill.unit_length import unit_length

Candidates = Literal["documents", "all"]
Targets = Literal["vectors", "scores"]

SAMPLE = 256
"""Number of rows from which the spread of a teacher's scores is estimated."""


class Operands(NamedTuple):
    """The vectors whose products are a score matrix."""

    rows: Float[Array, "b d"]
    """The texts of this shard's rows."""
    texts: Float[Array, "n d"]
    """The same texts of the whole batch."""
    candidates: Float[Array, "m d"]
    """The candidates, of the whole batch."""


def operands(side: Side, candidates: Candidates) -> Operands:
    """The batch's texts and their candidates: every row's document, or also the hard negatives."""
    # all_documents has the n rows' documents first, then each column of hard negatives.
    n = side.all_documents.shape[0] // (1 + side.negatives.shape[1])
    documents = side.all_documents[:n]
    columns = side.all_documents if candidates == "all" else documents
    if side.queries is None or side.all_queries is None:
        return Operands(side.documents, documents, columns)
    return Operands(side.queries, side.all_queries, columns)


def local_operands(
    side: Side, candidates: Candidates, direction: Direction, kind: str
) -> tuple[Float[Array, "b d"], Float[Array, "p d"]]:
    """The texts of this device's rows, and its share of their candidates.

    Args:
      side: the student or a teacher.
      candidates: whether document candidates include hard negatives.
      direction: from the rows' texts to the candidates; for plain texts only `q2d` and `d2d`, which are equal there.
      kind: of the loss, for the error message.

    Raises:
      UserError: if the rows are plain texts and the direction needs queries.
    """
    texts, against = TEXTS[direction]
    documents = local_candidates(side.documents, side.negatives) if candidates == "all" else side.documents
    queries = side.documents if side.queries is None and direction == "q2d" else side.queries
    return (
        side.documents if texts == "documents" else queries_of(queries, kind),
        documents if against == "documents" else queries_of(queries, kind),
    )


def own_documents(side: Side) -> Float[Array, "b c d"]:
    """The documents of each row: its own, then its hard negatives."""
    return jnp.concatenate([side.documents[:, None], side.negatives], axis=1)


def own_scores(side: Side, kind: str, *, similarity: Similarity) -> Float[Array, "b c"]:
    """Similarity of each row's query with each document of the row, float32.

    Raises:
      UserError: if the rows are plain texts.
    """
    queries, documents = unit(queries_of(side.queries, kind), similarity), unit(own_documents(side), similarity)
    return jnp.einsum("bd,bcd->bc", queries, documents, precision=jax.lax.Precision.HIGHEST)


def given_scores(inputs: LossInputs, kind: str) -> Float[Array, "b c"]:
    """The data's score of each document of a row.

    Raises:
      UserError: if the data has no scores, or not one per document.
    """
    c = 1 + inputs.student.negatives.shape[1]
    advice = "or set targets: vectors to take the scores from the teacher's vectors"
    if inputs.scores is None:
        raise UserError(
            f"{kind} with targets: scores learns from given scores, but these rows have none. Name their column as "
            f"score under data.<source>.columns, {advice}."
        )
    if inputs.scores.shape[1] != c:
        raise UserError(
            f"{kind} with targets: scores learns from one score per document of a row, but these rows have {c} "
            f"documents (their own and {c - 1} hard negatives) and {inputs.scores.shape[1]} scores. Give a score for "
            f"every document, the row's own first, {advice}."
        )
    return float32(inputs.scores)


def target_scores(inputs: LossInputs, targets: Targets, kind: str, *, similarity: Similarity) -> Float[Array, "b c"]:
    """The teacher's score of each document of a row: given by the data, or from the teacher's vectors.

    Raises:
      UserError: if the data has no queries or no scores.
      ValueError: if the teacher's vectors are needed and missing.
    """
    if targets == "scores":
        return given_scores(inputs, kind)
    if inputs.teacher is None:
        raise ValueError(f"{kind} takes its scores from a teacher's vectors, but there is no teacher")
    return own_scores(inputs.teacher, kind, similarity=similarity)


def sample_of_scores(
    teacher: PairEmbeddings | None,
    candidates: Candidates | Literal["own", "documents_and_own"],
    similarity: Similarity,
    direction: Direction = "q2d",
) -> np.ndarray | None:
    """A sample of the teacher's scores in a batch, `[rows, candidates]`, for checks; None without vectors.

    Args:
      teacher: the teacher's vectors.
      candidates: as for `operands`; or the documents of the row itself; or both.
      similarity: how two texts are scored.
      direction: from the rows' texts to the candidates.
    """
    if teacher is None:
        return None
    documents = np.asarray(teacher.documents, np.float32)
    queries = documents[:, 0] if teacher.queries is None else np.asarray(teacher.queries, np.float32)
    if similarity == "cosine":
        queries, documents = unit_length(queries), unit_length(documents)
    texts, against = ({"queries": queries, "documents": documents[:, 0]}[name] for name in TEXTS[direction])
    # Every k-th row, so that at most SAMPLE remain, from the whole batch.
    sample = slice(None, None, -(-len(texts) // SAMPLE))
    own = np.einsum("bd,bcd->bc", texts[sample], documents[sample])
    if candidates == "own":
        return own
    if candidates == "all" and TEXTS[direction][1] == "documents":
        against = documents.reshape(-1, documents.shape[-1])
    scores = texts[sample] @ against.T
    return np.concatenate([scores, own[:, 1:]], axis=1) if candidates == "documents_and_own" else scores
