"""How rows become batches."""

from typing import Literal

from pydantic import Field

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
    shapes: PerSide = PerSide(query=2, document=3)
    """At most this many padded lengths per side. XLA compiles one program per pair of lengths that occurs; which
    lengths waste the fewest padding tokens is computed from the store."""
    packing: int | None = Field(default=None, ge=8)
    """Pack the texts of a batch into rows of this many tokens; attention stays within a text. Then one program is
    compiled, hardly a token is padding, and `shapes` has no effect. For one device, and not with `no_duplicates`."""
    last_batch: Literal["keep", "drop"] = "keep"
    """What becomes of rows that do not fill a batch at the end of an epoch: `keep` completes it with rows that the
    epoch has already seen, so that every row is seen; `drop` leaves them out."""
    no_duplicates: bool = False
    """No text stands in two rows of a batch, as query, document or negative: for in-batch negatives, where an equal
    text would be a false negative. A row that finds no place waits for a later batch of the same epoch."""
    prefetch: int = Field(default=2, ge=0)
    """Batches prepared ahead by background threads; 0 prepares each when it is asked for."""
