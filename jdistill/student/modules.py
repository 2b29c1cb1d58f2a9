"""Modules shared by encoders: linear layers, norms, word embeddings, and their rows in weight tables."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jdistill.student.layers import dense, layer_norm, rms_norm
from jdistill.student.weights import Weight


class Linear(nnx.Module):
    """`x W + b`, or `x W` without bias."""

    def __init__(self, inputs: int, outputs: int, *, std: float, rngs: nnx.Rngs, bias: bool = True) -> None:
        self.kernel = nnx.Param(normal(rngs, std, inputs, outputs))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "n l i"]) -> Float[Array, "n l o"]:
        """`[n, l, i] -> [n, l, o]`."""
        return dense(x, self.kernel[...], None if self.bias is None else self.bias[...])


class LayerNorm(nnx.Module):
    """Layer normalization with scale and optional bias."""

    def __init__(self, width: int, epsilon: float, *, bias: bool = True) -> None:
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """`[..., d] -> [..., d]`."""
        scale = self.scale[...]
        return layer_norm(x, scale, jnp.zeros_like(scale) if self.bias is None else self.bias[...], self.epsilon)


class RMSNorm(nnx.Module):
    """RMS normalization. Gemma stores `scale - 1`, for which `offset` is 1."""

    def __init__(self, width: int, epsilon: float, *, offset: float = 0.0) -> None:
        self.epsilon, self.offset = epsilon, offset
        self.scale = nnx.Param(jnp.full(width, 1.0 - offset, jnp.float32))

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """`[..., d] -> [..., d]`."""
        return rms_norm(x, self.scale[...] + self.offset, self.epsilon)


def normal(rngs: nnx.Rngs, std: float, *shape: int) -> Float[Array, "..."]:
    """Normally distributed float32 values with standard deviation `std`."""
    return std * rngs.params.normal(shape, jnp.float32)


def linear_rows(hf: str, ours: str, *, bias: bool = True, part: tuple[int, int] | None = None) -> list[Weight]:
    """Weight table rows of a `Linear`: its name in a Hugging Face file and its path here; `part` as in `Weight`."""
    rows = [Weight(f"{hf}.weight", f"{ours}.kernel", transpose=True, part=part)]
    return [*rows, Weight(f"{hf}.bias", f"{ours}.bias", part=part)] if bias else rows


def norm_rows(hf: str, ours: str, *, bias: bool = True) -> list[Weight]:
    """Weight table rows of a norm: its name in a Hugging Face file and its path here."""
    rows = [Weight(f"{hf}.weight", f"{ours}.scale")]
    return [*rows, Weight(f"{hf}.bias", f"{ours}.bias")] if bias else rows
