"""Scores of texts by their whole vectors, or by several prefixes of them at once, each scaled to length 1.

The products of a prefix are those of the next shorter one plus those of the numbers between, so all prefixes together
cost one product of whole vectors, and vectors are read once.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.losses.maths import Similarity, float32, matmul, norm


class Prefixed(NamedTuple):
    """Vectors of which prefixes are compared."""

    values: Float[Array, "b d"]
    scales: Float[Array, "b p"]
    """One over the length of each prefix, the shortest first."""


EPSILON = 1e-12
"""As in `normalise`: a zero prefix stays zero, and its gradient is divided by this."""

LARGEST = 1e30
"""Of two vectors' scales together: where both prefixes are zero no gradient passes, but infinity would make it NaN."""


def prefixed(x: Float[Array, "b d"], widths: Sequence[int], similarity: Similarity) -> Prefixed:
    """The vectors with the lengths of their prefixes, in float32.

    Args:
      x: vectors, any float.
      widths: of the prefixes, ascending.
      similarity: of the prefixes scaled to length 1; a cosine scales them once more, which matters where they are 0.
    """
    x = float32(x)[:, : widths[-1]]
    lengths = jnp.stack([norm(x[:, :width]) for width in widths], axis=1)
    scales = 1 / jnp.maximum(lengths, EPSILON)
    if similarity == "cosine":
        scales = scales / jnp.maximum(lengths * scales, EPSILON)
    return Prefixed(x, scales)


Vectors = Float[Array, "_ d"] | Prefixed


def products(rows: Vectors, candidates: Vectors, widths: Sequence[int]) -> Float[Array, "*p b k"]:
    """Score of every row with every candidate; of Prefixed, by each prefix, the shortest first."""
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
        raise TypeError("vectors of which prefixes are compared can only be compared with such vectors")
    return a, b.T


def _running(parts: Sequence[Array]) -> list[Array]:
    sums = [parts[0]]
    for part in parts[1:]:
        sums.append(sums[-1] + part)
    return sums
