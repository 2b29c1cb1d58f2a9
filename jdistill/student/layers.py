"""The layers that encoders are built from, as functions of arrays.

Matrix products are two-dimensional, `[tokens, width]`, since the backward pass of three-dimensional products is slower
on XLA's CPU backend (see docs/performance.md). Norm statistics and softmax are float32 in any dtype.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

FLOAT32 = jnp.dtype("float32")
"""For results that should keep the precision of norm statistics."""


def dense(
    x: Float[Array, "*n i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"] | None = None
) -> Float[Array, "*n o"]:
    """`x W + b` in the dtype of `x`."""
    flat = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    flat = flat if bias is None else flat + bias.astype(x.dtype)[None, :]
    return flat.reshape(*x.shape[:-1], kernel.shape[1])


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*n d"], scale: Float[Array, " d"], bias: Float[Array, " d"], epsilon: float
) -> Float[Array, "*n d"]:
    """Layer normalization with scale and bias; float32 inside, returned in the dtype of `x`.

    Has a custom backward pass, since autodiff's makes a training step on a CPU a few percent slower:
        dx = r (dh - mean(dh) - h mean(dh h)),   dh = scale dy
    where `h` is the normalized vector and `r = 1 / sqrt(variance + epsilon)`, with the biased variance.

    Source: Ba et al. 2016, arXiv:1607.06450, eq. 4, with `epsilon` added to the variance.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    normed = centred * inverse
    # Broadcasting is explicit in this package, because tests raise on implicit rank promotion.
    row = (1,) * (x.ndim - 1) + (-1,)
    out = normed * scale.reshape(row) + bias.reshape(row)
    return out.astype(x.dtype), (normed.astype(x.dtype), inverse, scale)  # residuals in the dtype of x save memory


def _layer_norm_backward(epsilon: float, kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    kept_normed, inverse, scale = kept
    normed, wide = kept_normed.astype(jnp.float32), gradient.astype(jnp.float32)
    inner = wide * scale.reshape((1,) * (wide.ndim - 1) + (-1,))
    mean = inner.mean(-1, keepdims=True)
    along = (inner * normed).mean(-1, keepdims=True)
    rows = tuple(range(wide.ndim - 1))
    dx = inverse * (inner - mean - normed * along)
    return dx.astype(gradient.dtype), (wide * normed).sum(rows), wide.sum(rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def rms_norm(x: Float[Array, "*n d"], scale: Float[Array, " d"], epsilon: float) -> Float[Array, "*n d"]:
    """`x / sqrt(mean(x^2) + epsilon) * scale`; float32 inside, returned in the dtype of `x`.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4, with `epsilon` added to the mean square.
    """
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + epsilon)
    return (wide * inverse * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


def lookup(table: Float[Array, "v d"], ids: Int[Array, "*n"], dtype: jnp.dtype) -> Float[Array, "*n d"]:
    """Rows of a table. An id outside the table gives NaN, to reveal bugs in the caller."""
    return jnp.take(table, ids, axis=0, mode="fill").astype(dtype)


def dropout(x: Float[Array, "n *l"], rate: float, key: Array | None) -> Float[Array, "n *l"]:
    """Zero a fraction `rate` of the values and scale the others by `1 / (1 - rate)`; identity without a key.

    With one key per row, a row's mask depends only on its key, not on the other rows of the batch.

    Args:
      x: any values.
      rate: in [0, 1).
      key: one key, one per row `[n]`, or None.

    Source: Srivastava et al. 2014, JMLR 15, as inverted dropout, which preserves the expected value.
    """
    if key is None or rate == 0.0:
        return x

    def keep(key: Array, shape: tuple[int, ...]) -> Bool[Array, "..."]:
        return jax.random.bernoulli(key, 1.0 - rate, shape)

    kept = jax.vmap(lambda one: keep(one, x.shape[1:]))(key) if key.ndim else keep(key, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def keys(key: Array | None, count: int) -> list[Array | None]:
    """Split a key, or one key per row, into `count`; `count` times None for None."""
    if key is None:
        return [None] * count
    return list(
        jax.random.split(key, count) if key.ndim == 0 else jax.vmap(lambda k: jax.random.split(k, count))(key).T
    )


@jax.custom_vjp
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Exact GELU, `x Phi(x)` with the normal distribution function `Phi`, float32 inside.

    JAX's default is the tanh approximation, which differs by up to 5e-4. The derivative `Phi(x) + x phi(x)` is
    explicit, since autodiff's makes a training step on a CPU about 8 % slower.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_forward(x: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    return gelu(x), x


def _gelu_backward(x: Float[Array, "*n"], gradient: Float[Array, "*n"]) -> tuple[Float[Array, "*n"]]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
    slope = _normal_cdf(wide) + wide * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


def _normal_cdf(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))


gelu.defvjp(_gelu_forward, _gelu_backward)


def _gelu_tanh(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
"""Hugging Face's `hidden_act` -> function."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def gated(gate: Float[Array, "*n"], up: Float[Array, "*n"], activation: str) -> Float[Array, "*n"]:
    """`activation(gate) * up`; float32 inside, returned in the dtype of `gate`.

    The backward pass keeps only the two arguments, in their dtype, and recomputes the activation, where autodiff would
    keep several float32 arrays.

    Args:
      gate: any values.
      up: values of the same shape.
      activation: one of `ACTIVATIONS`.

    Source: Shazeer 2020, arXiv:2002.05202, eq. 5, without the products before and after.
    """
    return _gated_formula(gate.astype(jnp.float32), up.astype(jnp.float32), activation).astype(gate.dtype)


def _gated_formula(gate: Array, up: Array, activation: str) -> Array:
    return ACTIVATIONS[activation](gate) * up


def _gated_forward(gate: Array, up: Array, activation: str) -> tuple[Array, tuple[Array, Array]]:
    out: Any = gated(gate, up, activation)  # Any: custom_vjp functions have no return type
    return out, (gate, up)


def _gated_backward(activation: str, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    wide = [x.astype(jnp.float32) for x in kept]
    dgate, dup = jax.vjp(lambda gate, up: _gated_formula(gate, up, activation), *wide)[1](gradient.astype(jnp.float32))
    return dgate.astype(gradient.dtype), dup.astype(gradient.dtype)


gated.defvjp(_gated_forward, _gated_backward)
