"""The modules that encoders share: linear layers, norms and their rows in a weight table."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jdistill.student.layers import dense, layer_norm, lookup, rms_norm
from jdistill.student.weights import Weight


class Linear(nnx.Module):
    """`x W + b`, or `x W`."""

    def __init__(self, inputs: int, outputs: int, *, std: float, rngs: nnx.Rngs, bias: bool = True) -> None:
        self.kernel = nnx.Param(normal(rngs, std, inputs, outputs))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "n l i"]) -> Float[Array, "n l o"]:
        """`[n, l, i] -> [n, l, o]`."""
        return dense(x, self.kernel[...], None if self.bias is None else self.bias[...])


class LayerNorm(nnx.Module):
    """Each vector with mean 0 and variance 1, scaled and, with a bias, shifted."""

    def __init__(self, width: int, epsilon: float, *, bias: bool = True) -> None:
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """The same shape."""
        scale = self.scale[...]
        return layer_norm(x, scale, jnp.zeros_like(scale) if self.bias is None else self.bias[...], self.epsilon)


class RMSNorm(nnx.Module):
    """Each vector with mean square 1, scaled. Gemma keeps `scale - 1` in its files: there `offset` is 1."""

    def __init__(self, width: int, epsilon: float, *, offset: float = 0.0) -> None:
        self.epsilon, self.offset = epsilon, offset
        self.scale = nnx.Param(jnp.full(width, 1.0 - offset, jnp.float32))

    def __call__(self, x: Float[Array, "*n d"], dtype: jnp.dtype | None = None) -> Float[Array, "*n d"]:
        """The same shape, in `dtype`; by default in that of `x`."""
        return rms_norm(x, self.scale[...] + self.offset, self.epsilon, dtype)


class Words(nnx.Module):
    """One vector per token of the vocabulary."""

    def __init__(self, tokens: int, width: int, *, std: float, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.dtype = dtype
        self.words = nnx.Param(normal(rngs, std, tokens, width))

    def __call__(self, ids: Int[Array, "*n"]) -> Float[Array, "*n d"]:
        """Those of some tokens, in `dtype`."""
        return lookup(self.words[...], ids, self.dtype)


def normal(rngs: nnx.Rngs, std: float, *shape: int) -> Float[Array, "..."]:
    """Random float32 values of that standard deviation."""
    return std * rngs.params.normal(shape, jnp.float32)


def linear_rows(hf: str, ours: str, *, bias: bool = True, part: tuple[int, int] | None = None) -> list[Weight]:
    """A `Linear` under its name in a Hugging Face file and its path here; `part` as of `Weight`."""
    rows = [Weight(f"{hf}.weight", f"{ours}.kernel", transpose=True, part=part)]
    return [*rows, Weight(f"{hf}.bias", f"{ours}.bias", part=part)] if bias else rows


def norm_rows(hf: str, ours: str, *, bias: bool = True) -> list[Weight]:
    """A `LayerNorm`, or without a bias an `RMSNorm` too, under its name in a Hugging Face file and its path here."""
    rows = [Weight(f"{hf}.weight", f"{ours}.scale")]
    return [*rows, Weight(f"{hf}.bias", f"{ours}.bias")] if bias else rows
