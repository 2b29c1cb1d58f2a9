"""Refits scale and bias of norms after pruning the width, since mean and variance of fewer dimensions differ."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jdistill.student.modules import LayerNorm, RMSNorm
from jdistill.student.pruning.observe import Sample


def fitted_norms(
    flat: Mapping[str, Float[np.ndarray, "..."]], sample: Sample, encode: Float[np.ndarray, "d k"]
) -> dict[str, Float[np.ndarray, " k"]]:
    """Scale and bias, by path, with which norms of the pruned stream best approximate the old norms' output.

    Least squares over the sample, per dimension: `z s + b ~ y P`, where `z` is `x P` normalized, and `x` and `y` are
    input and output of the old norm. Norms without a bias have no `b`.

    Args:
      flat: parameters by path.
      sample: the old encoder with the texts to run on.
      encode: P.
    """
    norms, P = sample.norms(), jnp.asarray(encode, jnp.float32)

    def products(name: str, x: Float[Array, "n d"], y: Float[Array, "n d"]) -> dict[str, Array]:
        z, target = _normalised(norms[name], x @ P), y @ P
        return {"z": z, "y": target, "zz": z * z, "zy": z * target}

    sums = sample.along(list(norms), products)
    fitted: dict[str, Any] = {}
    for name, norm in norms.items():
        mean = {key: value / sums["count"] for key, value in sums[name].items()}
        shifts = f"{name}.bias" in flat
        centre = (mean["z"], mean["y"]) if shifts else (np.zeros(()), np.zeros(()))
        variance, along = mean["zz"] - centre[0] ** 2, mean["zy"] - centre[0] * centre[1]
        scale = along / np.maximum(variance, 1e-12)
        fitted[f"{name}.scale"] = scale - (norm.offset if isinstance(norm, RMSNorm) else 0.0)
        if shifts:
            fitted[f"{name}.bias"] = centre[1] - scale * centre[0]
    return fitted


def _normalised(norm: LayerNorm | RMSNorm, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    if isinstance(norm, LayerNorm):
        x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + norm.epsilon)
