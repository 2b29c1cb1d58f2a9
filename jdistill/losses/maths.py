"""Norms and similarities in float32, with torch's guards, so that neither a value nor a gradient is ever NaN.

Every function takes any float dtype and computes in float32. Matrix products request full precision, because a
temperature of 0.01 multiplies the error of a bfloat16 or TF32 product by a hundred.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Similarity = Literal["cosine", "dot"]


def float32(x: Array) -> Float[Array, "..."]:
    """Cast to float32: losses compute in full precision whatever the model's dtype."""
    return x.astype(jnp.float32)


def root(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Square root with gradient 0, not infinity, at 0; returns 0 where rounding made `x` negative."""
    # The root's derivative at 0 is infinite, and the outer `where` would multiply it by 0, which is NaN. So the inner
    # one takes the root of 1 there.
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), jnp.zeros_like(x))


def absolute(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Absolute value. The gradient at 0 is 0, as in torch.abs (jnp's is 1)."""
    return x * lax.stop_gradient(jnp.sign(x))


def norm(x: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Euclidean norm of each vector. The gradient at a zero vector is 0, as in torch.norm (jnp's is NaN)."""
    x = float32(x)
    return root(jnp.sum(x * x, axis=-1))


def normalise(x: Float[Array, "*b d"], *, eps: float = 1e-12) -> Float[Array, "*b d"]:
    """`x / max(|x|, eps)`; a zero vector stays zero.

    The default `eps` is that of torch.nn.functional.normalize. As there, a zero vector receives the incoming
    gradient divided by `eps`: huge, but finite.
    """
    x = float32(x)
    return x / jnp.maximum(norm(x), eps)[..., None]


def unit(x: Float[Array, "*b d"], similarity: Similarity) -> Float[Array, "*b d"]:
    """Vectors whose inner products are the similarities, float32: normalised for cosine, else as they are."""
    return normalise(x) if similarity == "cosine" else float32(x)


def cosine(a: Float[Array, "*b d"], b: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Cosine of the angle between paired vectors, 0 where either is zero.

    Norms are clamped to at least 1e-8, as in torch.nn.functional.cosine_similarity.
    """
    return jnp.sum(normalise(a, eps=1e-8) * normalise(b, eps=1e-8), axis=-1)


def matmul(a: Float[Array, "b d"], b: Float[Array, "d c"]) -> Float[Array, "b c"]:
    """Matrix product in float32 on every backend."""
    return jnp.matmul(float32(a), float32(b), precision=jax.lax.Precision.HIGHEST)


def pair_scores(a: Float[Array, "*b d"], b: Float[Array, "*b d"], similarity: Similarity) -> Float[Array, "*b"]:
    """Similarity of each vector of `a` with the vector of `b` at the same place, float32."""
    return jnp.sum(unit(a, similarity) * unit(b, similarity), axis=-1)
