"""Activation pooling: a mean in which each token is weighted by a learned, non-negative activation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import override

from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.layers import dense
from jdistill.student.modules import linear_rows
from jdistill.student.packing import TokenRows
from jdistill.student.pooling.base import OWN_FILE, PoolingModule, PoolingParams
from jdistill.student.weights import Weight


class Activation(PoolingModule):
    """Sum of the token vectors, each scaled by its activation, divided by the number of tokens.

        out = sum_t w_t h_t / max(count, 1),   w_t = relu(h_t . v + c)

    A token with activation 0 contributes nothing but is counted in the divisor. The weights do not sum to 1, so the
    norm of the vector reflects how much of the text was relevant; a `normalize` in the head removes this.

    Source:
      The activation head of github.com/approximated-intelligence/embedding-distillation, which has a frozen ModernBERT
      and no `c`.
    """

    module: ClassVar[str] = "ActivationPooling"
    module_file: ClassVar[Path | None] = OWN_FILE

    kind: Literal["activation"] = "activation"
    bias: bool = True
    """Whether to add `c`, initialised to 1 with `v` at 0, so that training starts from the mean. Without it `v` is
    random, and about half of each text's tokens start with activation 0."""

    def width(self, encoder: EncoderConfig) -> int:
        """The encoder's width."""
        return encoder.width

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """`linear`: `kernel [d, 1]`, and `bias [1]` with `bias: true`."""
        shape = (encoder.width, 1)
        if self.bias:
            return {"linear": {"kernel": jnp.zeros(shape, jnp.float32), "bias": jnp.ones(1, jnp.float32)}}
        bound = encoder.width**-0.5  # as in torch.nn.Linear
        return {"linear": {"kernel": jax.random.uniform(key, shape, jnp.float32, -bound, bound)}}

    @override
    def weights(self) -> list[Weight]:
        return linear_rows("linear", "linear", bias=self.bias)

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: TokenRows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n d"]:
        """`[n, d]` vectors; zeros for a text without tokens."""
        counts = jnp.maximum(rows.counts, 1).astype(jnp.float32)
        return rows.total(hidden * activations(hidden, params)[:, :, None]) / counts[:, None]


def activations(hidden: Float[Array, "r p d"], params: PoolingParams) -> Float[Array, "r p"]:
    """`relu(h . v + c)` at every position."""
    return jax.nn.relu(dense(hidden, params["linear"]["kernel"], params["linear"].get("bias"))[:, :, 0])
