"""Hardness weighting: extra weight for negatives that score high."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool

Hardness = Literal["none", "in_batch", "hard", "all"]
"""Negatives whose logit is raised by strength times their score: none, other rows' documents, own hard negatives,
all."""

HARDNESS_MASKS: dict[str, Callable[[Bool[Array, "b k"]], Bool[Array, "b k"]]] = {
    "in_batch": jnp.logical_not,
    "hard": lambda own: own,
    "all": jnp.ones_like,
}
"""Mask of a row's own documents -> mask of the candidates to raise. The positive is masked out elsewhere."""
