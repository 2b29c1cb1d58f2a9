"""Config of the loader."""

from typing import Literal

from pydantic import Field, model_validator

from jdistill.config import Config


class PerSide(Config):
    """An integer for queries and one for documents."""

    query: int = Field(ge=1)
    """For queries; no effect on plain texts."""
    document: int = Field(ge=1)
    """For documents and hard negatives."""


class LoaderConfig(Config):
    """Order, composition and padding of batches. No option changes a text or its vector."""

    pad_to_multiple: PerSide = PerSide(query=8, document=8)
    """Pad every batch to a multiple of this many tokens. 8 suits CPU and GPU; 128 suits TPU with long texts."""
    shapes: int = Field(default=6, ge=1)
    """Maximum number of padded shapes: lengths of plain texts, or pairs of query and document lengths. XLA compiles one
    program per shape. The shapes are chosen to minimise padding on the store."""
    folding: bool = False
    """Pack two texts per row, a long and a short one, without attention between them; padding drops from about 17 % to
    5 %. The number of rows per device and microbatch must be even. Dropout as with `packing`."""
    packing: int | None = Field(default=None, ge=8)
    """Pack the texts of a batch into rows of this many tokens, without attention between texts. Needs one program and
    almost no padding; `shapes` has no effect. The rows of each device and microbatch are packed separately: with about
    8 texts there, choose a length of which some whole number of rows just holds them; with about 4, rows cannot be
    filled well, and `folding` is faster. On TPU, use a multiple of 128. With `student.dropout`, the texts packed
    together share one PRNG key, so results depend on the number of devices and microbatches; without dropout they do
    not."""
    last_batch: Literal["keep", "drop"] = "keep"
    """Rows that do not fill a batch at the end of an epoch: `keep` completes the batch with rows already seen in the
    epoch, so that every row is seen; `drop` skips them."""
    no_duplicates: bool = False
    """No text occurs in two rows of a batch, as query, document or negative. For in-batch negatives, of which an equal
    text would be a false one. Conflicting rows are moved to a later batch of the same epoch."""
    prefetch: int = Field(default=2, ge=0)
    """Batches prepared ahead by background threads; 0 prepares each on demand."""

    @model_validator(mode="after")
    def _one_layout(self) -> "LoaderConfig":
        if self.folding and self.packing is not None:
            raise ValueError(f"folding and packing={self.packing} are two layouts of a batch. Set only one of them.")
        return self
