"""Adapts poolings and heads that were trained with the full encoder to the pruned one, or rejects them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jdistill.config import UserError
from jdistill.student.config import StudentConfig
from jdistill.student.encoders import EncoderConfig
from jdistill.student.head import Dense, LayerNorm
from jdistill.student.hf_folder import Pretrained
from jdistill.student.pooling import Pooling, PoolingModule
from jdistill.student.weights import flatten

BY_TOKEN = ("bias", "decoder")
"""Parameters of a masked language model head with one row per token."""


def check_head(config: StudentConfig, found: Pretrained) -> None:
    """Reject the model's own head if `width` shrinks its input.

    Raises:
      UserError: if the model has such a head and the config does not replace it.
    """
    if config.width is None or config.head is not None:
        return
    reads = [module.kind for module in found.head if isinstance(module, Dense | LayerNorm)]
    if reads:
        raise UserError(
            f"student.width: {found.where} has a {reads[0]} module in its head, which expects vectors of the original "
            "width. Set student.head to replace the head, or to [] for none; or leave width out."
        )


def tokens_behind(pooling: Mapping[str, Any], tokens: Int[np.ndarray, " v"] | None) -> dict[str, Any]:
    """Parameters of the poolings, with only the rows of the kept tokens.

    Args:
      pooling: index of a pooling -> its parameters.
      tokens: old ids of the kept tokens; None if all were kept.
    """
    if tokens is None:
        return dict(pooling)
    return {
        i: {
            name: np.asarray(value)[tokens]
            if name in BY_TOKEN and np.ndim(value) and len(value) > len(tokens)
            else value
            for name, value in params.items()
        }
        for i, params in pooling.items()
    }


def check_behind(pooling: Sequence[Pooling], params: Mapping[str, Any], encoder: EncoderConfig, *, where: str) -> None:
    """Reject poolings whose parameters come from the full model and do not fit the pruned one.

    Raises:
      UserError: if there is one.
    """
    for i, module in enumerate(pooling):
        if not isinstance(module, PoolingModule):
            continue
        fitting = flatten(jax.eval_shape(lambda module=module: module.init(encoder, jax.random.key(0))))
        given = flatten(params[str(i)])
        if any(np.shape(given[path]) != fitting[path].shape for path in fitting if path in given):
            raise UserError(
                f"student.width: the pooling '{module.kind}' takes its parameters from {where}, where vectors are "
                "wider. Leave width out, or choose another pooling."
            )
