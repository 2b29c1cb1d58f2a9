"""Class labels of rows: a group of texts, or the relation of a pair."""

from jaxtyping import Array, Int

from jdistill.config import UserError


def classes_of(labels: Int[Array, " n"] | None, kind: str) -> Int[Array, " n"]:
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
