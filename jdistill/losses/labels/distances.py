"""Distances between vectors, for losses on pairs and triplets."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.losses.maths import absolute, cosine, float32, norm, normalise

PairDistance = Literal["cosine", "euclidean", "manhattan"]
"""One minus the cosine; Euclidean distance; sum of absolute differences."""

SHIFT = 1e-6
"""Added to each element of a difference by torch.nn.functional.pairwise_distance."""


def pair_distances(a: Float[Array, "*b d"], b: Float[Array, "*b d"], distance: PairDistance) -> Float[Array, "*b"]:
    """Distances of paired vectors, float32, as in torch.nn.functional's pairwise_distance and cosine_similarity.

    Between equal vectors the Euclidean distance is 1e-6 sqrt(d), not 0, so that the gradient can push equal vectors
    apart. The cosine with a zero vector is 0, and its distance 1.

    Args:
      a: vectors, any float.
      b: the other vector of each pair.
      distance: the distance to compute.
    """
    if distance == "cosine":
        return 1 - cosine(a, b)
    difference = float32(a) - float32(b) + SHIFT
    return norm(difference) if distance == "euclidean" else absolute(difference).sum(axis=-1)


def check_margin(distance: str, margin: float) -> None:
    """Raise if no two vectors can be the margin apart.

    Raises:
      ValueError: if distances are cosines and the margin is 2 or more.
    """
    if distance == "cosine" and margin >= 2:
        raise ValueError(
            f"margin {margin:g} can never be reached, since cosine distances are between 0 and 2. "
            "Set it below 2, such as 0.2."
        )


def _euclidean(a: Float[Array, "*#b d"], b: Float[Array, "*#b d"]) -> Float[Array, "..."]:
    return norm(float32(a) - float32(b))


def _cosine(a: Float[Array, "*#b d"], b: Float[Array, "*#b d"]) -> Float[Array, "..."]:
    return 1 - jnp.sum(normalise(a) * normalise(b), axis=-1)


def _manhattan(a: Float[Array, "*#b d"], b: Float[Array, "*#b d"]) -> Float[Array, "..."]:
    return absolute(float32(a) - float32(b)).sum(axis=-1)


DISTANCES: dict[PairDistance, Callable[[Array, Array], Float[Array, "..."]]] = {
    "euclidean": _euclidean,
    "cosine": _cosine,
    "manhattan": _manhattan,
}
"""Distances for triplets: 0, with gradient 0, between equal vectors."""
