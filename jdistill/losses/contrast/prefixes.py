"""Scores of texts by their whole vectors, or by several prefixes of them at once, each scaled to length 1.

The products of a prefix are those of the next shorter one plus those of the numbers between, so all prefixes together
cost one product of whole vectors, and vectors are read once.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.losses.maths import float32, matmul, norm


class Prefixed(NamedTuple):
    """Vectors of which prefixes are compared."""

    values: Float[Array, "b d"]
    scales: Float[Array, "b p"]
    """One over the length of each prefix, the shortest first."""


def prefixed(x: Float[Array, "b d"], widths: Sequence[int]) -> Prefixed:
    """The vectors with the lengths of their prefixes, in float32.

    Args:
      x: vectors, any float.
      widths: of the prefixes, ascending.
    """
    x = float32(x)[:, : widths[-1]]
    # As `normalise` has it: a zero prefix stays zero.
    scales = [1 / jnp.maximum(norm(x[:, :width]), 1e-12) for width in widths]
    return Prefixed(x, jnp.stack(scales, axis=1))


Vectors = Float[Array, "_ d"] | Prefixed


def products(rows: Vectors, candidates: Vectors, widths: Sequence[int]) -> Float[Array, "*p b k"]:
    """Score of every row with every candidate; of Prefixed, by each prefix, the shortest first."""
    if isinstance(rows, Prefixed) and isinstance(candidates, Prefixed):
        parts = [matmul(rows.values[:, a:b], candidates.values[:, a:b].T) for a, b in pairwise((0, *widths))]
        scales = zip(rows.scales.T, candidates.scales.T, strict=True)
        return jnp.stack([x * r[:, None] * c[None] for x, (r, c) in zip(_running(parts), scales, strict=True)])
    return matmul(*_whole(rows, candidates))


def pair_products(a: Vectors, b: Vectors, widths: Sequence[int]) -> Float[Array, " b *p"]:
    """Score of each vector with its partner."""
    if isinstance(a, Prefixed) and isinstance(b, Prefixed):
        parts = [jnp.sum(a.values[:, i:j] * b.values[:, i:j], axis=-1) for i, j in pairwise((0, *widths))]
        return jnp.stack(_running(parts), axis=1) * a.scales * b.scales
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
