"""Latent attention pooling: tokens attend to a trained array of latents, then the mean is taken (NV-Embed)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.layers import dense, gelu, layer_norm
from jdistill.student.modules import linear_rows, norm_rows
from jdistill.student.packing import TokenRows
from jdistill.student.pooling.base import OWN_FILE, PoolingModule, PoolingParams
from jdistill.student.pooling.modes import mean
from jdistill.student.weights import Weight

EPSILON = 1e-5
"""Added to variances, as by torch's LayerNorm."""


class LatentAttention(PoolingModule):
    """Token vectors attend to `latents` trained vectors, pass a gated feed-forward layer, and are averaged.

        a_t = h_t + sum_j softmax_j(q(h_t) . k(z_j) / sqrt(width / heads)) v(z_j) O,   for each head
        m_t = a_t + (x * gelu(g)) D + e,   (x, g) = halves of norm(a_t) U + f
        out = mean_t m_t

    with `q(h) = norm(h) Q`, `k(z) = norm(z) K`, `v(z) = norm(z) V`. The latents are the same for every text, so the
    cost is linear in the number of tokens. `O`, `D` and `e` are initialised to 0, so training starts from the mean.

    Source:
      Lee et al. 2024 (NV-Embed), arXiv:2405.17428, eq. 1 and 2. Norms, residuals and the gate, which the paper omits,
      follow its published code, which has 512 latents, 8 heads and a width of 8 x 4096.
    """

    module: ClassVar[str] = "LatentAttentionPooling"
    module_file: ClassVar[Path | None] = OWN_FILE

    kind: Literal["latent_attention"] = "latent_attention"
    papers = ("arXiv:2405.17428",)
    latents: int = Field(default=64, ge=1)
    """Number of trained latent vectors."""
    heads: int = Field(default=8, ge=1)
    """Number of attention heads."""
    attention_width: int | None = Field(default=None, ge=1)
    """Width of queries, keys and values, summed over heads. Default: the encoder's width."""
    inner: int = Field(default=4, ge=1)
    """Width of the feed-forward layer, as a multiple of the encoder's width."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "LatentAttention":
        if self.attention_width is not None and self.attention_width % self.heads:
            raise ValueError(f"attention_width {self.attention_width} is not divisible by heads {self.heads}.")
        return self

    def width(self, encoder: EncoderConfig) -> int:
        """The encoder's width."""
        return encoder.width

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """Norms, projections and latents `[latents, d]` of unit variance."""
        d = encoder.width
        wide, inner = self._attention_width(encoder), self.inner * d
        latents, query, keys, values, up = jax.random.split(key, 5)
        norm = {"scale": jnp.ones(d, jnp.float32), "bias": jnp.zeros(d, jnp.float32)}
        return {
            "latents": jax.random.normal(latents, (self.latents, d), jnp.float32),
            "token_norm": norm,
            "latent_norm": norm,
            "query": {"kernel": _linear(query, d, wide)},
            "key": {"kernel": _linear(keys, d, wide)},
            "value": {"kernel": _linear(values, d, wide)},
            "out": {"kernel": jnp.zeros((wide, d), jnp.float32)},
            "inner_norm": norm,
            "up": {"kernel": _linear(up, d, 2 * inner), "bias": jnp.zeros(2 * inner, jnp.float32)},
            "down": {"kernel": jnp.zeros((inner, d), jnp.float32), "bias": jnp.zeros(d, jnp.float32)},
        }

    def weights(self) -> list[Weight]:
        """Every layer under its name here; the latents are called `table`."""
        rows = [Weight("table", "latents")]
        for name in ("token_norm", "latent_norm", "inner_norm"):
            rows += norm_rows(name, name)
        for name in ("query", "key", "value", "out", "up", "down"):
            rows += linear_rows(name, name, bias=name in ("up", "down"))
        return rows

    @override
    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        return {
            "token_width": encoder.width,
            "latents": self.latents,
            "heads": self.heads,
            "attention_width": self._attention_width(encoder),
            "inner_width": self.inner * encoder.width,
        }

    @classmethod
    @override
    def from_module(cls, config: Mapping[str, Any]) -> "LatentAttention":
        width, attention = config["token_width"], config["attention_width"]
        return cls(
            latents=config["latents"],
            heads=config["heads"],
            # None, as in a recipe that leaves it out: parameters are kept only if both poolings are equal.
            attention_width=None if attention == width else attention,
            inner=config["inner_width"] // width,
        )

    def _attention_width(self, encoder: EncoderConfig) -> int:
        wide = self.attention_width or encoder.width
        if wide % self.heads:
            raise UserError(
                f"student.pooling: latent_attention has {self.heads} heads, but the encoder's width {wide} is not "
                "divisible by that. Choose another number of heads, or set attention_width."
            )
        return wide

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: TokenRows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n d"]:
        """`[n, d]` vectors; zeros for a text without tokens."""
        attended = hidden + self._attention(hidden, params)
        x = dense(_norm(attended, params["inner_norm"]), params["up"]["kernel"], params["up"]["bias"])
        x, gate = jnp.split(x, 2, axis=-1)
        return mean(attended + dense(x * gelu(gate), params["down"]["kernel"], params["down"]["bias"]), rows)

    def _attention(self, hidden: Float[Array, "r p d"], params: PoolingParams) -> Float[Array, "r p d"]:
        latents = _norm(params["latents"], params["latent_norm"])
        queries = dense(_norm(hidden, params["token_norm"]), params["query"]["kernel"])
        queries, keys, values = (
            x.reshape(*x.shape[:-1], self.heads, -1)
            for x in (queries, dense(latents, params["key"]["kernel"]), dense(latents, params["value"]["kernel"]))
        )
        # r, p: row and place; h, w: head and its width; j: latent. Each place attends by itself, so packing needs no
        # mask.
        scores = jnp.einsum("rphw,jhw->rhpj", queries, keys) * queries.shape[-1] ** -0.5
        attended = jnp.einsum("rhpj,jhw->rphw", jax.nn.softmax(scores, axis=-1), values)
        return dense(attended.reshape(*attended.shape[:2], -1), params["out"]["kernel"])


def _norm(x: Float[Array, "*n d"], params: Mapping[str, Array]) -> Float[Array, "*n d"]:
    return layer_norm(x, params["scale"], params["bias"], EPSILON)


def _linear(key: Array, inputs: int, outputs: int) -> Float[Array, "i o"]:
    """Initialised as in torch.nn.Linear."""
    bound = inputs**-0.5
    return jax.random.uniform(key, (inputs, outputs), jnp.float32, -bound, bound)
