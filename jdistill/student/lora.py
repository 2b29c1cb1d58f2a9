"""LoRA: the encoder's matrices are frozen, and selected ones learn a low-rank update.

Encoders need no support for it: updates are merged into the parameters before each run of the encoder, and permanently
when a finished model is loaded or exported.

Source: Hu et al. 2021, arXiv:2106.09685, eq. 3. Its matrices are `[out, in]` and ours `[in, out]`, so its `B A` is our
`A B`. Its `r` and `alpha` are `rank` and `alpha` here.
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
    """Freeze the encoder and train low-rank updates of some of its matrices."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update: a matrix `[in, out]` has `rank * (in + out)` trainable numbers."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is multiplied by `alpha / rank`."""
    targets: list[re.Pattern[str]] = Field(
        default=[re.compile(r".*/query/kernel"), re.compile(r".*/value/kernel")], min_length=1
    )
    """Regular expressions that match full paths in the encoder, such as `layers/[0-2]/up/kernel`; each must match at
    least one matrix. Default: queries and values of attention, as in the paper."""

    @property
    def scale(self) -> float:
        """The factor `alpha / rank` of `A B`."""
        return self.alpha / self.rank


def make_lora(config: LoraConfig, encoder: Mapping[str, Any], key: Array) -> Params:
    """Initial low-rank updates, whose products are zero.

    Args:
      config: which matrices to update, and the rank.
      encoder: the encoder's parameters, nested dicts.
      key: random key for A.

    Returns:
      Nested dicts like the encoder's, with `a [in, rank]`, uniform in `±1 / sqrt(in)`, and `b [rank, out]`, zeros, in
      place of each selected matrix `[in, out]`; float32.

    Raises:
      UserError: if a pattern matches no matrix.

    Source:
      Kaiming uniform with gain `sqrt(1 / 3)` for A, as in the authors' code and in peft.
    """
    shapes = chosen_matrices(config, encoder)
    lora: Params = {}
    for one, (path, (inputs, outputs)) in zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True):
        level = lora
        for name in path.split("/"):
            level = level.setdefault(name, {})
        # B starts at 0, so the student starts as the model it was; A must not be 0 as well, or neither would get a
        # gradient.
        limit = inputs**-0.5
        level["a"] = jax.random.uniform(one, (inputs, config.rank), jnp.float32, -limit, limit)
        level["b"] = jnp.zeros((config.rank, outputs), jnp.float32)
    return lora


def chosen_matrices(config: LoraConfig, encoder: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Path -> shape of each matrix that gets an update.

    Raises:
      UserError: if a pattern matches no matrix.
    """
    matrices = {
        "/".join(path.key for path in where): x.shape
        for where, x in jax.tree.leaves_with_path(dict(encoder))
        if x.ndim == 2 and where[-1].key == "kernel"
    }
    unmatched = [t.pattern for t in config.targets if not any(t.fullmatch(path) for path in matrices)]
    if unmatched:
        # Layers are alike, so one pattern for all of them is shorter than a list.
        forms = dict.fromkeys(re.sub(r"(?<=/)\d+(?=/)", r"\\d+", path) for path in matrices)
        there_are = f"Matrices: {', '.join(forms)}." if forms else "This encoder has none; remove student.lora."
        named = f"{' and '.join(map(repr, unmatched))} {'matches' if len(unmatched) == 1 else 'match'}"
        raise UserError(
            f"student.lora.targets: {named} no matrix of the encoder. A pattern must match the full path of a matrix. "
            f"{there_are}"
        )
    return {path: shape for path, shape in matrices.items() if any(t.fullmatch(path) for t in config.targets)}


def merged_encoder(config: LoraConfig | None, params: Mapping[str, Any]) -> Params:
    """The encoder's parameters with updates merged: `W + alpha / rank A B` for every selected `W`.

    Args:
      config: None for a student without LoRA.
      params: the student's parameters, with the updates under `"lora"`.
    """
    return params["encoder"] if config is None else _merged(params["encoder"], params["lora"], config.scale)


def merge_lora(config: LoraConfig | None, params: Mapping[str, Any]) -> Params:
    """The parameters of an equivalent student without LoRA; arguments as in `merged_encoder`."""
    rest = {name: values for name, values in params.items() if name not in ("encoder", "lora")}
    return {"encoder": merged_encoder(config, params), **rest}


def _merged(encoder: Mapping[str, Any], lora: Mapping[str, Any], scale: float) -> Params:
    def merged(value: Any, addition: Any) -> Any:
        if isinstance(value, Mapping):
            return _merged(value, addition, scale)
        return value + scale * _product(addition["a"], addition["b"])

    return {name: merged(value, lora[name]) if name in lora else value for name, value in encoder.items()}


def _product(a: Float[Array, "i r"], b: Float[Array, "r o"]) -> Float[Array, "i o"]:
    # Accelerators round float32 products by default. Full precision makes merging once equal to merging in each step.
    return jnp.matmul(jnp.asarray(a), jnp.asarray(b), precision="highest")
