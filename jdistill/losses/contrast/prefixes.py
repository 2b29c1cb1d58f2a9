"""Scores by whole vectors, or by several normalised prefixes at once.

The inner product of a prefix is that of the next shorter prefix plus that of the elements between, so all prefixes
together cost one product of whole vectors, and vectors are read once.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.losses.maths import Similarity, float32, matmul, norm


class Prefixed(NamedTuple):
    """Vectors to be compared by several of their prefixes."""

    values: Float[Array, "b d"]
    scales: Float[Array, "b p"]
    """One over the norm of each prefix, the shortest first."""


EPSILON = 1e-12
"""Minimum norm, as in `normalise`: a zero prefix stays zero, and its gradient is divided by this."""

LARGEST = 1e30
"""Maximum product of two scales. If both prefixes are zero it would overflow, and make the zero gradient NaN."""


def prefixed(x: Float[Array, "b d"], widths: Sequence[int], similarity: Similarity) -> Prefixed:
    """The vectors with the norms of their prefixes, in float32.

    Args:
      x: vectors, any float.
      widths: of the prefixes, ascending.
      similarity: of the normalised prefixes; cosine normalises once more, which only changes near-zero prefixes.
    """
    x = float32(x)[:, : widths[-1]]
    lengths = jnp.stack([norm(x[:, :width]) for width in widths], axis=1)
    scales = 1 / jnp.maximum(lengths, EPSILON)
    if similarity == "cosine":
        scales = scales / jnp.maximum(lengths * scales, EPSILON)
    return Prefixed(x, scales)


Vectors = Float[Array, "_ d"] | Prefixed


def products(rows: Vectors, candidates: Vectors, widths: Sequence[int]) -> Float[Array, "*p b k"]:
    """Score of every row with every candidate; for Prefixed, one matrix per prefix, the shortest first."""
    if isinstance(rows, Prefixed) and isinstance(candidates, Prefixed):
        parts = [matmul(rows.values[:, a:b], candidates.values[:, a:b].T) for a, b in pairwise((0, *widths))]
        scales = [r[:, None] * c[None] for r, c in zip(rows.scales.T, candidates.scales.T, strict=True)]
        return jnp.stack([x * jnp.minimum(s, LARGEST) for x, s in zip(_running(parts), scales, strict=True)])
    return matmul(*_whole(rows, candidates))


def pair_products(a: Vectors, b: Vectors, widths: Sequence[int]) -> Float[Array, " b *p"]:
    """Score of each vector with its partner."""
    if isinstance(a, Prefixed) and isinstance(b, Prefixed):
        parts = [jnp.sum(a.values[:, i:j] * b.values[:, i:j], axis=-1) for i, j in pairwise((0, *widths))]
        return jnp.stack(_running(parts), axis=1) * jnp.minimum(a.scales * b.scales, LARGEST)
    whole, others = _whole(a, b)
    return jnp.sum(whole * others.T, axis=-1)


def _whole(a: Vectors, b: Vectors) -> tuple[Float[Array, "_ d"], Float[Array, "d _"]]:
    if isinstance(a, Prefixed) or isinstance(b, Prefixed):
        raise TypeError("cannot compare Prefixed vectors with whole vectors")
    return a, b.T


def _running(parts: Sequence[Array]) -> list[Array]:
    sums = [parts[0]]
    for part in parts[1:]:
        sums.append(sums[-1] + part)
    return sums
