"""What follows the pooling: a list of normalisations and dense layers, in any order."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import Config
from jdistill.student.layers import dense


class Normalize(Config):
    """Scale every vector to unit length."""

    kind: Literal["normalize"] = "normalize"


class Dense(Config):
    """A linear layer with an activation: sentence-transformers' Dense module."""

    kind: Literal["dense"] = "dense"
    in_features: int
    """Width before."""
    out_features: int
    """Width after."""
    bias: bool = True
    """Whether a vector is added."""
    activation: Literal["identity", "tanh"] = "identity"
    """Applied to each number."""


HeadModule = Annotated[Normalize | Dense, Field(discriminator="kind")]


def apply_head(
    modules: Sequence[Normalize | Dense], params: Mapping[str, Mapping[str, Array]], x: Float[Array, "n d"]
) -> Float[Array, "n e"]:
    """Send pooled vectors through every module in turn; `params` holds a dense layer's weights under its index."""
    for i, module in enumerate(modules):
        if isinstance(module, Normalize):
            x = normalize(x)
        else:
            weights = params[str(i)]
            x = dense(x, weights["kernel"], weights.get("bias", jnp.zeros(module.out_features, x.dtype)))
            x = jnp.tanh(x) if module.activation == "tanh" else x
    return x


def normalize(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """`x / max(||x||, 1e-12)`, in float32.

    A vector of zeros stays one, and its gradient passes unchanged (the formula's own would be 1e12 times as large).
    """
    wide = x.astype(jnp.float32)
    squares = (wide * wide).sum(-1, keepdims=True)
    is_zero = squares == 0.0
    length = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1.0, squares)), 1e-12)
    return wide / length
