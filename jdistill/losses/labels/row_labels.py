"""The labels of rows: a number that says how alike a pair is, or a class."""

from jaxtyping import Array, Float, Int

from jdistill.config import UserError
from jdistill.losses.maths import float32


def pair_labels(scores: Float[Array, "n s"] | None, kind: str) -> Float[Array, " n"]:
    """The single score of each row, float32, for a loss of this `kind`.

    Raises:
      UserError: if the rows have no score, or several.
    """
    if scores is None:
        raise UserError(
            f"{kind} learns from a score of each pair, but these rows have none. Name its column as "
            "data.<source>.columns.score, or use a loss that needs none, such as info_nce."
        )
    if scores.shape[1] != 1:
        raise UserError(
            f"{kind} learns from one score of each pair, but these rows have {scores.shape[1]} each. Name one column "
            "under data.<source>.columns.score, or use a loss for scores of several documents, such as score_kl."
        )
    return float32(scores[:, 0])


def class_labels(labels: Int[Array, " n"] | None, kind: str) -> Int[Array, " n"]:
    """The class of each row, for a loss of this `kind`, which requires it.

    Raises:
      UserError: if the rows have no labels.
    """
    if labels is None:
        raise UserError(
            f"{kind} learns from the class of each row, but these rows have none. Name its column as "
            "data.<source>.columns.label and embed into a new store, or use a loss without labels, such as info_nce."
        )
    return labels
