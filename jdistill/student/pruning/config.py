"""Options under `student:` that shrink the model given by `init`."""

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from jdistill.config import Config


class Width(Config):
    """A smaller hidden size, fitted to a sample of the training texts, without training.

    Matrices that read the hidden states are adjusted by least squares on the sample, and norms are refitted, since the
    mean and variance of fewer dimensions differ. The result is close to the original, not exact.
    """

    to: int = Field(ge=1)
    """New hidden size. In encoders whose heads divide the hidden size equally, such as BERT, it must be a multiple of
    the head width; the least important heads are then removed and the others keep their width."""
    by: Literal["importance", "pca"] | None = None
    """How to choose the smaller space. `importance`, the default for encoders with layers: keep the dimensions with the
    largest activations. `pca`: rotate to the principal directions. Static embeddings support only `pca`, which is exact
    if the rank of the table is at most `to`.
    all-MiniLM-L6-v2, reduced from 384 to 256 and not trained, scores 0.854 (importance) and 0.847 (pca) on STS-B dev,
    against 0.867 at full width; its cosines have a rank correlation with the original's of 0.957 and 0.961."""


class Vocabulary(Config):
    """A smaller vocabulary: the most frequent tokens of the training texts, with the tokenizer rebuilt to match.

    Texts whose tokens are all kept have the same tokens and vectors as before; a removed token is split into several
    smaller ones. Special tokens, bytes, and every character of the training texts are always kept.
    """

    size: int | None = Field(default=None, ge=1)
    """Number of tokens to keep. Set either this or `min_count`."""
    min_count: int | None = Field(default=None, ge=1)
    """Keep tokens that occur at least this often in the training texts. Counts a random million texts if there are
    more."""

    @model_validator(mode="after")
    def _one_rule(self) -> "Vocabulary":
        if (self.size is None) == (self.min_count is None):
            given = "neither is" if self.size is None else "both are"
            raise ValueError(f"size and min_count: {given} set. Set exactly one, such as size: 8000.")
        return self


class Cuts(NamedTuple):
    """The options that are fitted to training texts."""

    width: Width | None = None
    heads: int | None = None
    intermediate: int | None = None
    vocabulary: Vocabulary | None = None

    @property
    def any(self) -> bool:
        """Whether any option is set."""
        return self.narrows or self.vocabulary is not None

    @property
    def narrows(self) -> bool:
        """Whether matrices shrink, which requires running the encoder on a sample of texts."""
        return (self.width, self.heads, self.intermediate) != (None, None, None)
