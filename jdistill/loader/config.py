"""How rows become batches."""

from typing import Literal

from pydantic import Field, model_validator

from jdistill.config import Config


class PerSide(Config):
    """A whole number for queries and one for documents."""

    query: int = Field(ge=1)
    """The number for queries; without effect where the rows are plain texts."""
    document: int = Field(ge=1)
    """The number for documents and hard negatives."""


class LoaderConfig(Config):
    """Order, composition and padding of batches. None of it changes a text or a vector."""

    pad_to_multiple: PerSide = PerSide(query=8, document=8)
    """Every batch is padded to a multiple of this many tokens. 8 suits CPU and GPU, 128 suits TPU for long texts."""
    shapes: int = Field(default=6, ge=1)
    """At most this many padded shapes: lengths of plain texts, or pairs of a query's and a document's. XLA compiles one
    program for each; which of them waste the fewest padding tokens is computed from the store."""
    folding: bool = False
    """Let two texts of a batch share a row, a long one and a short one; attention stays within a text. Then all rows
    are nearly equally long, and `shapes` lengths waste a twentieth where they would waste a sixth. Each device's rows
    in each of `train.microbatches` must be even in number. Dropout as with `packing`."""
    packing: int | None = Field(default=None, ge=8)
    """Pack the texts of a batch into rows of this many tokens; attention stays within a text. Then one program is
    compiled, hardly a token is padding, and `shapes` has no effect. What a device encodes at once, its rows in one of
    `train.microbatches`, is packed for itself: below some twenty texts rows of this length cannot be filled, and
    `folding` wastes less. On a TPU, a multiple of 128. With `student.dropout` the texts of such a piece share one key,
    so what is dropped depends on how many pieces there are; without it, the result does not."""
    last_batch: Literal["keep", "drop"] = "keep"
    """What becomes of rows that do not fill a batch at the end of an epoch: `keep` completes it with rows that the
    epoch has already seen, so that every row is seen; `drop` leaves them out."""
    no_duplicates: bool = False
    """No text stands in two rows of a batch, as query, document or negative: for in-batch negatives, where an equal
    text would be a false negative. A row that finds no place waits for a later batch of the same epoch."""
    prefetch: int = Field(default=2, ge=0)
    """Batches prepared ahead by background threads; 0 prepares each when it is asked for."""

    @model_validator(mode="after")
    def _one_layout(self) -> "LoaderConfig":
        if self.folding and self.packing is not None:
            raise ValueError(f"folding and packing={self.packing} are two layouts of a batch. Leave out one of both.")
        return self
