"""LoRA: the encoder's own matrices are frozen, and each chosen one learns an addition of low rank.

What an encoder computes uses the merged matrices, so no encoder knows of it: its parameters are merged just before it
runs, and once and for all when a finished model is loaded or exported.

Source: Hu et al. 2021, arXiv:2106.09685, eq. 3, whose matrices are `[out, in]`; ours are `[in, out]`, so that their
`B A` is our `A B`. Their `r` and `alpha` are `rank` and `alpha` here.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import Config, UserError

Params = dict[str, Any]


class LoraConfig(Config):
    """Train the encoder by additions of low rank to some of its matrices, whose own values are frozen."""

    rank: int = Field(default=16, ge=1)
    """Inner width of an addition: a matrix `[in, out]` learns `rank * (in + out)` numbers."""
    alpha: float = Field(default=32.0, gt=0)
    """An addition is multiplied by `alpha / rank`."""
    targets: list[re.Pattern[str]] = Field(
        default=[re.compile(r".*/query/kernel"), re.compile(r".*/value/kernel")], min_length=1
    )
    """Regular expressions of whole paths within the encoder, such as `layers/[0-2]/up/kernel`; each must match at least
    one matrix. Left out: queries and values of attention, as in the paper."""

    @property
    def scale(self) -> float:
        """By which `A B` is multiplied."""
        return self.alpha / self.rank


def make_lora(config: LoraConfig, encoder: Mapping[str, Any], key: Array) -> Params:
    """The additions before the first step, which are zero.

    Args:
      config: which matrices, and of which rank.
      encoder: the encoder's parameters, nested dicts.
      key: decides A.

    Returns:
      Nested dicts like the encoder's that hold, in place of each chosen matrix `[in, out]`, `a [in, rank]`, uniform in
      `±1 / sqrt(in)`, and `b [rank, out]`, zeros; float32.

    Raises:
      UserError: if a pattern matches no matrix.

    Source:
      Kaiming uniform with a gain of `sqrt(1 / 3)`, as the authors' own code and peft initialise A.
    """
    shapes = chosen_matrices(config, encoder)
    lora: Params = {}
    for one, (path, (inputs, outputs)) in zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True):
        level = lora
        for name in path.split("/"):
            level = level.setdefault(name, {})
        limit = inputs**-0.5
        level["a"] = jax.random.uniform(one, (inputs, config.rank), jnp.float32, -limit, limit)
        level["b"] = jnp.zeros((config.rank, outputs), jnp.float32)
    return lora


def chosen_matrices(config: LoraConfig, encoder: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Path -> shape of each matrix that learns an addition.

    Raises:
      UserError: naming every pattern that matches no matrix, and the matrices that there are.
    """
    matrices = {
        "/".join(path.key for path in where): x.shape
        for where, x in jax.tree.leaves_with_path(dict(encoder))
        if x.ndim == 2 and where[-1].key == "kernel"
    }
    unmatched = [t.pattern for t in config.targets if not any(t.fullmatch(path) for path in matrices)]
    if unmatched:
        # Layers are alike, so one pattern for all of them tells more than a long list.
        forms = dict.fromkeys(re.sub(r"(?<=/)\d+(?=/)", r"\\d+", path) for path in matrices)
        there_are = f"They are: {', '.join(forms)}." if forms else "This encoder has none, so leave student.lora out."
        named = f"{' and '.join(map(repr, unmatched))} {'matches' if len(unmatched) == 1 else 'match'}"
        raise UserError(
            f"student.lora.targets: {named} no matrix of the encoder. A pattern must match the whole path of a matrix. "
            f"{there_are}"
        )
    return {path: shape for path, shape in matrices.items() if any(t.fullmatch(path) for t in config.targets)}


def merged_encoder(config: LoraConfig | None, params: Mapping[str, Any]) -> Params:
    """The encoder's parameters as it is to compute with them: `W + alpha / rank A B` for every `W` that learns.

    Args:
      config: None where nothing is merged.
      params: the student's, with the additions under `"lora"`.
    """
    return params["encoder"] if config is None else _merged(params["encoder"], params["lora"], config.scale)


def merge_lora(config: LoraConfig | None, params: Mapping[str, Any]) -> Params:
    """The parameters of a student without LoRA that computes the same; arguments as of `merged_encoder`."""
    rest = {name: values for name, values in params.items() if name not in ("encoder", "lora")}
    return {"encoder": merged_encoder(config, params), **rest}


def _merged(encoder: Mapping[str, Any], lora: Mapping[str, Any], scale: float) -> Params:
    def merged(value: Any, addition: Any) -> Any:
        if isinstance(value, Mapping):
            return _merged(value, addition, scale)
        return value + scale * _product(addition["a"], addition["b"])

    return {name: merged(value, lora[name]) if name in lora else value for name, value in encoder.items()}


def _product(a: Float[Array, "i r"], b: Float[Array, "r o"]) -> Float[Array, "i o"]:
    # Accelerators multiply float32 in fewer bits unless told otherwise: merged once or in each step, it is the same.
    return jnp.matmul(jnp.asarray(a), jnp.asarray(b), precision="highest")
