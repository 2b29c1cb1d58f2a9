"""The head: modules after the pooling, in any order: dense layers, layer norms and normalization."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import Config, UserError
from jdistill.student.layers import dense, gelu, layer_norm

HeadParams = dict[str, Array]
"""Parameters of one module, float32; empty if it has none."""

HEAD_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}
"""Name -> elementwise function; `gelu` is exact, not the tanh approximation."""


class Normalize(Config):
    """Scale every vector to unit length."""

    kind: Literal["normalize"] = "normalize"

    def width(self, before: int) -> int:
        """As before."""
        return before

    def init(self, before: int, key: Array) -> HeadParams:
        """No parameters."""
        return {}

    def __call__(self, x: Float[Array, "n d"], params: Mapping[str, Array]) -> Float[Array, "n d"]:
        """`x / max(||x||, 1e-12)`, see `normalize`."""
        return normalize(x)


class Dense(Config):
    """A linear layer with an activation, `act(x W + b)`, as sentence-transformers' Dense module."""

    kind: Literal["dense"] = "dense"
    in_features: int | None = Field(default=None, ge=1)
    """Input width. Default: inferred from the module before."""
    out_features: int = Field(ge=1)
    """Output width."""
    bias: bool = True
    """Whether to add `b`."""
    activation: Literal["identity", "tanh", "relu", "gelu", "silu", "sigmoid"] = "identity"
    """Elementwise activation."""
    residual: bool = False
    """Whether to add `x` to the output, through a separate matrix if the widths differ. Loading the export then
    requires sentence-transformers 6 or later."""

    def width(self, before: int) -> int:
        """`out_features`."""
        return self.out_features

    def init(self, before: int, key: Array) -> HeadParams:
        """`kernel [before, out]` with orthonormal rows or columns, `bias [out]` of zeros, and `residual [before, out]`.

        So a random layer to a larger width, without activation, preserves norms and angles.
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
        """`act(x W + b)`, plus the residual."""
        out = HEAD_ACTIVATIONS[self.activation](dense(x, params["kernel"], params.get("bias")))
        if not self.residual:
            return out
        return out + (dense(x, params["residual"]) if "residual" in params else x)


class LayerNorm(Config):
    """Layer normalization with scale and bias, as sentence-transformers' LayerNorm module."""

    kind: Literal["layer_norm"] = "layer_norm"

    def width(self, before: int) -> int:
        """As before."""
        return before

    def init(self, before: int, key: Array) -> HeadParams:
        """`scale` of ones and `bias` of zeros."""
        return {"scale": jnp.ones(before, jnp.float32), "bias": jnp.zeros(before, jnp.float32)}

    def __call__(self, x: Float[Array, "n d"], params: Mapping[str, Array]) -> Float[Array, "n d"]:
        """As torch.nn.LayerNorm, with epsilon 1e-5."""
        return layer_norm(x, params["scale"], params["bias"], 1e-5)


Head = Normalize | Dense | LayerNorm

HeadModule = Annotated[Head, Field(discriminator="kind")]


def apply_head(
    modules: Sequence[Head], params: Mapping[str, Mapping[str, Array]], x: Float[Array, "n d"]
) -> Float[Array, "n e"]:
    """Apply the modules in turn; `params` maps a module's index to its parameters."""
    for i, module in enumerate(modules):
        x = module(x, params.get(str(i), {}))
    return x


def head_width(modules: Sequence[Head], before: int) -> int:
    """Width of the vectors after all modules."""
    for module in modules:
        before = module.width(before)
    return before


def with_widths(modules: Sequence[Head], before: int, *, where: str) -> list[Head]:
    """The same modules with `in_features` filled in.

    Raises:
      UserError: if a dense layer's `in_features` differs from the width of its input.
    """
    filled: list[Head] = []
    for i, module in enumerate(modules):
        if isinstance(module, Dense):
            if module.in_features not in (None, before):
                raise UserError(
                    f"{where}: dense layer {i} has in_features {module.in_features}, but its input has width {before}. "
                    "Leave in_features out, or choose another pooling."
                )
            module = module.model_copy(update={"in_features": before})
        filled.append(module)
        before = module.width(before)
    return filled


def init_head(modules: Sequence[Head], before: int, key: Array) -> dict[str, HeadParams]:
    """Random parameters of the modules that have any, by index."""
    params = {}
    for i, module in enumerate(modules):
        if weights := module.init(before, jax.random.fold_in(key, i)):
            params[str(i)] = weights
        before = module.width(before)
    return params


def normalize(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """`x / max(||x||, 1e-12)`, in float32.

    A zero vector stays zero, and its gradient passes unchanged (the formula's gradient would be 1e12 times as large).
    """
    wide = x.astype(jnp.float32)
    squares = (wide * wide).sum(-1, keepdims=True)
    is_zero = squares == 0.0
    # The root's argument is replaced, not only its result: the derivative of the root at 0 is infinite, and 0 times
    # that is NaN.
    length = jnp.maximum(jnp.sqrt(jnp.where(is_zero, 1.0, squares)), 1e-12)
    return wide / length
