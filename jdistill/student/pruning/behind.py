"""What stands behind an encoder that became smaller: poolings and heads that were trained with the whole one."""

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
"""Parameters of a masked language model's head that have a row for each token."""


def check_head(config: StudentConfig, found: Pretrained) -> None:
    """Refuse a head of the whole model behind narrower vectors.

    Raises:
      UserError: if the model has one, and the configuration gives no other.
    """
    if config.width is None or config.head is not None:
        return
    reads = [module.kind for module in found.head if isinstance(module, Dense | LayerNorm)]
    if reads:
        raise UserError(
            f"student.width: {found.where} has a {reads[0]} module behind its encoder, which reads vectors of the "
            "whole width. Give student.head to have another in its place, or [] to have none; or leave width out."
        )


def tokens_behind(pooling: Mapping[str, Any], tokens: Int[np.ndarray, " v"] | None) -> dict[str, Any]:
    """Parameters of poolings after the vocabulary became smaller.

    Args:
      pooling: number of a pooling -> its parameters.
      tokens: old ids of the tokens that were kept; None where all were.
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
    """Refuse poolings whose parameters came from the whole model and do not fit the smaller one.

    Raises:
      UserError: naming the first.
    """
    for i, module in enumerate(pooling):
        if not isinstance(module, PoolingModule):
            continue
        fitting = flatten(jax.eval_shape(lambda module=module: module.init(encoder, jax.random.key(0))))
        given = flatten(params[str(i)])
        if any(np.shape(given[path]) != fitting[path].shape for path in fitting if path in given):
            raise UserError(
                f"student.width: the pooling '{module.kind}' would take its parameters from {where}, where vectors are "
                "wider. Leave width out, or take another pooling."
            )
