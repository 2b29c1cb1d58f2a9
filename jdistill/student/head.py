"""What follows the pooling: a list of normalisations, dense layers and layer norms, in any order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import Config, UserError
from jdistill.student.layers import dense, gelu, layer_norm

HeadParams = dict[str, Array]
"""Of one module, float32; empty for one without any."""

HEAD_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}
"""Name -> function of each number; `gelu` is the exact one."""


class Normalize(Config):
    """Scale every vector to unit length."""

    kind: Literal["normalize"] = "normalize"

    def width(self, before: int) -> int:
        """As before."""
        return before

    def init(self, before: int, key: Array) -> HeadParams:
        """None."""
        return {}

    def __call__(self, x: Float[Array, "n d"], params: Mapping[str, Array]) -> Float[Array, "n d"]:
        """`normalize`."""
        return normalize(x)


class Dense(Config):
    """A linear layer with an activation, `act(x W + b)`: sentence-transformers' Dense module."""

    kind: Literal["dense"] = "dense"
    in_features: int | None = Field(default=None, ge=1)
    """Width before; may be left out, since it follows from what stands before."""
    out_features: int = Field(ge=1)
    """Width after."""
    bias: bool = True
    """Whether `b` is added."""
    activation: Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"] = "identity"
    """Applied to each number."""
    residual: bool = False
    """Whether `x` is added to what comes out, through a matrix of its own where the widths differ. Exported, it needs
    sentence-transformers 6 or later."""

    def width(self, before: int) -> int:
        """`out_features`."""
        return self.out_features

    def init(self, before: int, key: Array) -> HeadParams:
        """`kernel [before, out]` with orthonormal rows or columns, `bias [out]` of zeros, and `residual [before, out]`.

        Towards a wider space a random layer without activation thus keeps every length and angle.
        """
        draw = jax.nn.initializers.orthogonal()
        kernel_key, residual_key = jax.random.split(key)
        shape = (before, self.out_features)
        params = {"kernel": draw(kernel_key, shape, jnp.float32)}
        if self.bias:
            params["bias"] = jnp.zeros(self.out_features, jnp.float32)
        if self.residual and before != self.out_features:
            params["residual"] = draw(residual_key, shape, jnp.float32)
        return params

    def __call__(self, x: Float[Array, "n d"], params: Mapping[str, Array]) -> Float[Array, "n e"]:
        """As the class says."""
        out = HEAD_ACTIVATIONS[self.activation](dense(x, params["kernel"], params.get("bias")))
        if not self.residual:
            return out
        return out + (dense(x, params["residual"]) if "residual" in params else x)


class LayerNorm(Config):
    """Each vector with mean 0 and variance 1, scaled and shifted: sentence-transformers' LayerNorm module."""

    kind: Literal["layer_norm"] = "layer_norm"

    def width(self, before: int) -> int:
        """As before."""
        return before

    def init(self, before: int, key: Array) -> HeadParams:
        """`scale` of ones and `bias` of zeros."""
        return {"scale": jnp.ones(before, jnp.float32), "bias": jnp.zeros(before, jnp.float32)}

    def __call__(self, x: Float[Array, "n d"], params: Mapping[str, Array]) -> Float[Array, "n d"]:
        """As torch's LayerNorm."""
        return layer_norm(x, params["scale"], params["bias"], 1e-5)


Head = Normalize | Dense | LayerNorm

HeadModule = Annotated[Head, Field(discriminator="kind")]


def apply_head(
    modules: Sequence[Head], params: Mapping[str, Mapping[str, Array]], x: Float[Array, "n d"]
) -> Float[Array, "n e"]:
    """Send pooled vectors through every module in turn; `params` holds a module's weights under its index."""
    for i, module in enumerate(modules):
        x = module(x, params.get(str(i), {}))
    return x


def head_width(modules: Sequence[Head], before: int) -> int:
    """Width of the vectors after all modules."""
    for module in modules:
        before = module.width(before)
    return before


def with_widths(modules: Sequence[Head], before: int, *, where: str) -> list[Head]:
    """The same modules, `in_features` filled in.

    Raises:
      UserError: if a dense layer expects another width than it gets.
    """
    filled: list[Head] = []
    for i, module in enumerate(modules):
        if isinstance(module, Dense):
            if module.in_features not in (None, before):
                raise UserError(
                    f"{where}: dense layer {i} expects vectors of width {module.in_features}, but gets {before}. "
                    "Leave in_features out, or choose another pooling."
                )
            module = module.model_copy(update={"in_features": before})
        filled.append(module)
        before = module.width(before)
    return filled


def init_head(modules: Sequence[Head], before: int, key: Array) -> dict[str, HeadParams]:
    """Random parameters of all modules that have some, by their index."""
    params = {}
    for i, module in enumerate(modules):
        if weights := module.init(before, jax.random.fold_in(key, i)):
            params[str(i)] = weights
        before = module.width(before)
    return params


def normalize(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """`x / max(||x||, 1e-12)`, in float32.

    A vector of zeros stays one, and its gradient passes unchanged (the formula's own would be 1e12 times as large).
    """
    wide = x.astype(jnp.float32)
    squares = (wide * wide).sum(-1, keepdims=True)
    is_zero = squares == 0.0
    length = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1.0, squares)), 1e-12)
    return wide / length
