"""Hardness: negatives that score high weigh more than the softmax gives them."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool

Hardness = Literal["none", "in_batch", "hard", "all"]
"""Which negatives are raised by strength times their own score: none, other rows' documents, own hard ones, or all."""

RAISED: dict[str, Callable[[Bool[Array, "b k"]], Bool[Array, "b k"]]] = {
    "in_batch": jnp.logical_not,
    "hard": lambda own: own,
    "all": jnp.ones_like,
}
"""From which candidates are a row's own documents to which are raised. The own pair is no negative: it is left out."""
