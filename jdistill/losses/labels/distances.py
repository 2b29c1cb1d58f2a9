"""How far apart two vectors are, for losses of pairs and of triplets."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.losses.maths import absolute, cosine, float32, norm, normalise

PairDistance = Literal["cosine", "euclidean", "manhattan"]
"""One minus the cosine; length of the difference; sum of the sizes of the difference's elements."""

SHIFT = 1e-6
"""Added to each element of a difference by torch.nn.functional.pairwise_distance."""


def pair_distances(a: Float[Array, "*b d"], b: Float[Array, "*b d"], distance: PairDistance) -> Float[Array, "*b"]:
    """Distances of paired vectors, float32, as torch.nn.functional's pairwise_distance and cosine_similarity have them.

    Between equal vectors the Euclidean distance is 1e-6 sqrt(d), not 0: so a pair that is to be pushed apart is, though
    the difference of its vectors points nowhere. The cosine with a zero vector is 0, and its distance 1.

    Args:
      a: vectors, any float.
      b: the other vector of each pair.
      distance: which.
    """
    if distance == "cosine":
        return 1 - cosine(a, b)
    difference = float32(a) - float32(b) + SHIFT
    return norm(difference) if distance == "euclidean" else absolute(difference).sum(axis=-1)


def distant_enough(distance: str, margin: float) -> None:
    """Refuse a margin that no two vectors can keep.

    Raises:
      ValueError: if distances are cosines and the margin is 2 or more.
    """
    if distance == "cosine" and margin >= 2:
        raise ValueError(
            f"margin {margin:g} can never be reached, since cosine distances lie between 0 and 2. "
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
"""Of triplets: 0, with gradient 0, between equal vectors."""
