"""The activation head: each token says by itself how much it counts, and may say not at all."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.layers import dense
from jdistill.student.modules import linear_rows
from jdistill.student.packing import Rows
from jdistill.student.pooling.base import PoolingModule, PoolingParams
from jdistill.student.weights import Weight


class Activation(PoolingModule):
    """Sum of the token vectors, each times its activation, divided by the number of tokens.

        out = sum_t w_t h_t / max(count, 1),   w_t = relu(h_t . v + c)

    A token without activation is left out, though it counts in the divisor. The weights need not add up to 1, so the
    length of the vector says how much of the text mattered; normalised, only its direction is left.

    Source:
      The activation head of github.com/approximated-intelligence/embedding-distillation, there on a frozen ModernBERT
      and without `c`.
    """

    module: ClassVar[str] = "ActivationPooling"

    kind: Literal["activation"] = "activation"
    bias: bool = True
    """Whether `c` is added. It starts at 1 and `v` at 0: training starts from the mean. Without it `v` starts at
    random, and of every text about half of the tokens start without activation."""

    def width(self, encoder: EncoderConfig) -> int:
        """The encoder's."""
        return encoder.width

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """`linear`: `kernel [d, 1]`, and `bias [1]` if there is one."""
        shape = (encoder.width, 1)
        if self.bias:
            return {"linear": {"kernel": jnp.zeros(shape, jnp.float32), "bias": jnp.ones(1, jnp.float32)}}
        bound = encoder.width**-0.5  # as of torch's Linear
        return {"linear": {"kernel": jax.random.uniform(key, shape, jnp.float32, -bound, bound)}}

    def weights(self) -> list[Weight]:
        """The linear layer."""
        return linear_rows("linear", "linear", bias=self.bias)

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """Width and bias."""
        return {"token_width": encoder.width, "bias": self.bias}

    @classmethod
    def from_module(cls, config: Mapping[str, Any]) -> "Activation":
        """From the bias."""
        return cls(bias=config["bias"])

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: Rows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n d"]:
        """As the class says; zeros for a text without any token."""
        counts = jnp.maximum(rows.counts, 1).astype(jnp.float32)
        return rows.total(hidden * activations(hidden, params)[:, :, None]) / counts[:, None]


def activations(hidden: Float[Array, "r p d"], params: PoolingParams) -> Float[Array, "r p"]:
    """`relu(h . v + c)` of every place."""
    return jax.nn.relu(dense(hidden, params["linear"]["kernel"], params["linear"].get("bias"))[:, :, 0])
