"""The few layers every encoder is made of, as functions of arrays.

Matrices are multiplied in two dimensions, `[tokens, width]`: the backward pass of a three-dimensional product is slower
on XLA's CPU backend (docs/performance.md has the numbers). Statistics and softmax run in float32 whatever the model
computes in.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def dense(x: Float[Array, "*n i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"]) -> Float[Array, "*n o"]:
    """`x W + b` in the dtype of `x`."""
    flat = x.reshape(-1, x.shape[-1])
    return (flat @ kernel.astype(x.dtype) + bias.astype(x.dtype)[None, :]).reshape(*x.shape[:-1], kernel.shape[1])


def layer_norm(
    x: Float[Array, "*n d"], scale: Float[Array, " d"], bias: Float[Array, " d"], *, epsilon: float
) -> Float[Array, "*n d"]:
    """Each vector with mean 0 and variance 1 (biased), then scaled and shifted; float32 inside, dtype of `x` outside.

    Source: Ba et al. 2016, arXiv:1607.06450, eq. 4, with `epsilon` added to the variance.
    """
    wide = x.astype(jnp.float32).reshape(-1, x.shape[-1])
    centred = wide - wide.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + epsilon)
    return (normed * scale[None, :] + bias[None, :]).reshape(x.shape).astype(x.dtype)


def lookup(table: Float[Array, "v d"], ids: Int[Array, "*n"], dtype: jnp.dtype) -> Float[Array, "*n d"]:
    """Rows of a table. An id outside the table is a bug upstream and gives NaN."""
    return jnp.take(table, ids, axis=0, mode="fill").astype(dtype)


def dropout(x: Float[Array, "*n"], rate: float, key: Array | None) -> Float[Array, "*n"]:
    """Zero a share `rate` of the values and scale the others by `1 / (1 - rate)`; nothing without a key.

    Source: Srivastava et al. 2014, JMLR 15, in the inverted form: the expected value stays.
    """
    if key is None or rate == 0.0:
        return x
    kept: Bool[Array, "*n"] = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def keys(key: Array | None, count: int) -> list[Array | None]:
    """`count` keys out of one, or as many None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def _gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jax.nn.gelu(x, approximate=False)  # JAX's default is the tanh form, 5e-4 away


def _gelu_tanh(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
"""Hugging Face's `hidden_act` -> function."""
