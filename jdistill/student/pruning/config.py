"""What a user writes about a student that is to be smaller than the model it starts from."""

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from jdistill.config import Config


class Width(Config):
    """A narrower vector for every token, fitted to a sample of the training texts; no training takes place.

    Every matrix that reads the vectors gets the linear map that loses least on the sample, and every norm is fitted
    anew, since its mean and variance are those of fewer numbers: the result is close, not exact.
    """

    to: int = Field(ge=1)
    """Numbers per token. Where heads share the width equally, as in BERT, it must be a multiple of a head's width, and
    the least important heads go, so that the others keep theirs."""
    by: Literal["importance", "pca"] | None = None
    """How the smaller space is found. `importance`, where nothing is said: by keeping the dimensions with the largest
    activations. `pca`: by turning to the principal directions; the only way for a static embedding, and exact there if
    the table has no higher rank.
    Of all-MiniLM-L6-v2, cut from 384 to 256 and not trained, importance has 0.854 on STS-B dev and pca 0.847, of 0.867
    whole; the cosines of the whole model come out alike by 0.957 and 0.961 (rank correlation)."""


class Vocabulary(Config):
    """A smaller vocabulary: the tokens that the training texts use most, with the tokenizer rebuilt to match.

    Texts whose tokens are all kept have the same tokens and vectors as before; elsewhere a missing token becomes
    several smaller ones. Special tokens, every character of the training texts, and bytes are kept in any case.
    """

    size: int | None = Field(default=None, ge=1)
    """Tokens to keep. Give this or `min_count`."""
    min_count: int | None = Field(default=None, ge=1)
    """Keep the tokens that occur at least so often in the training texts. Of more than a million texts, a random
    million is counted."""

    @model_validator(mode="after")
    def _one_rule(self) -> "Vocabulary":
        if (self.size is None) == (self.min_count is None):
            given = "neither is" if self.size is None else "both are"
            raise ValueError(f"size and min_count: {given} given. Give exactly one, such as size: 8000.")
        return self


class Cuts(NamedTuple):
    """Everything about a student that calls for training texts while it is made."""

    width: Width | None = None
    heads: int | None = None
    intermediate: int | None = None
    vocabulary: Vocabulary | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return self.narrows or self.vocabulary is not None

    @property
    def narrows(self) -> bool:
        """Whether matrices get smaller, for which a sample of texts is read."""
        return (self.width, self.heads, self.intermediate) != (None, None, None)
