"""The `prune:` section: what `jdistill prune` cuts of a trained model."""

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jdistill.config import Config, PathText

KeepLayers = list[Annotated[int, Field(ge=0)]] | Annotated[int, Field(ge=1)]
"""Layers to keep, in the order they run; or a number of evenly spaced ones."""


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


class PruneConfig(Config):
    """What `jdistill prune` cuts of which model, using the training texts of the store."""

    init: PathText
    """Folder or Hugging Face id of the model to prune."""
    revision: str | None = None
    """Branch, tag or commit of `init` on the hub."""
    output: PathText
    """Folder to write; `student.init` must name it."""
    keep_layers: KeepLayers | None = None
    """As `student.keep_layers`, but left out before everything else, which is then fitted to the remaining layers."""
    width: Width | None = None
    """A smaller hidden size, such as `{to: 256}`. Default: as in `init`."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads to keep in each layer, those that contribute most to its output. Only for encoders with a
    separate head width: NomicBERT, EuroBERT, Qwen3 and Gemma 3. In others, such as BERT, heads divide the hidden size
    equally and `width` determines how many remain. Default: all, or all that fit the width."""
    intermediate: int | None = Field(default=None, ge=1)
    """Feed-forward neurons to keep in each layer, those that contribute most to its output. Default: all."""
    vocabulary: Vocabulary | None = None
    """A smaller vocabulary, such as `{size: 8000}`, with the tokenizer rebuilt to match. Default: as in `init`."""

    @model_validator(mode="after")
    def _cuts_something_elsewhere(self) -> "PruneConfig":
        if not self.resizes and self.vocabulary is None:
            raise ValueError(
                "cuts nothing. Set width, heads, intermediate or vocabulary; for fewer layers alone, set "
                "student.keep_layers instead of this section."
            )
        if os.path.realpath(self.init) == os.path.realpath(self.output):
            raise ValueError(f"output: {self.output} is init itself, which would be replaced. Choose another folder.")
        return self

    @property
    def resizes(self) -> bool:
        """Whether matrices shrink, which requires running the encoder on a sample of texts."""
        return (self.width, self.heads, self.intermediate) != (None, None, None)
