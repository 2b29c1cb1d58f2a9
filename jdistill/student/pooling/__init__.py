"""Pooling: from one vector per token to one per text. `modes` has no parameters; each parametric pooling has a file."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jdistill.outside import Outside
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.packing import TokenRows
from jdistill.student.pooling.activation import Activation
from jdistill.student.pooling.base import PoolingModule, PoolingParams
from jdistill.student.pooling.latent_attention import LatentAttention
from jdistill.student.pooling.modes import MODES, Mode
from jdistill.student.pooling.sparse_vocabulary import SparseVocabulary
from jdistill.student.pooling.splade import Splade

OUTSIDE = Outside("jdistill.poolings", PoolingModule, defines=("width", "init", "__call__"))
"""Poolings of other packages."""

OwnPooling = Activation | LatentAttention | SparseVocabulary | Splade
"""Our poolings with parameters."""

Pooling = Mode | Annotated[OwnPooling | PoolingModule, OUTSIDE]
"""An entry of `pooling`: the name of a mode, or a module with its options."""


def pool(
    hidden: Float[Array, "r p d"],
    rows: TokenRows,
    poolings: Sequence[Pooling],
    params: Mapping[str, PoolingParams],
    encoder: EncoderConfig,
    encoder_params: Mapping[str, Any],
    prompts: Int[Array, " n"] | None = None,
) -> Float[Array, "n e"]:
    """The results of all poolings, concatenated, float32.

    Args:
      hidden: one vector per position, any float dtype; computed in float32.
      rows: which token of which text is at each position.
      poolings: at least one.
      params: index of a pooling in the list -> its parameters; poolings without parameters have no entry.
      encoder: the architecture of the encoder.
      encoder_params: its parameters.
      prompts: how many leading tokens of each text the modes skip; poolings with parameters see all tokens.

    Source:
      Parity: sentence-transformers Pooling, which calls `mean_sqrt_len` `mean_sqrt_len_tokens`, and skips the prompt
      with `include_prompt: false`.
    """
    # Sums over hundreds of tokens would lose precision in bfloat16.
    wide, behind = hidden.astype(jnp.float32), rows if prompts is None else rows.behind(prompts)
    return jnp.concatenate(
        [
            pooling(wide, rows, params[str(i)], encoder, encoder_params)
            if isinstance(pooling, PoolingModule)
            else MODES[pooling](wide, behind)
            for i, pooling in enumerate(poolings)
        ],
        axis=-1,
    )


def pooled_width(poolings: Sequence[Pooling], encoder: EncoderConfig) -> int:
    """Width of the concatenated pooled vectors."""
    return sum(pooling.width(encoder) if isinstance(pooling, PoolingModule) else encoder.width for pooling in poolings)


def is_sparse(poolings: Sequence[Pooling]) -> bool:
    """Whether the pooled vectors have a weight for each token of the vocabulary."""
    return any(isinstance(pooling, PoolingModule) and pooling.sparse for pooling in poolings)


def names_of(poolings: Sequence[Pooling]) -> list[str]:
    """Names of modes and kinds, for messages and model cards."""
    return [pooling.kind if isinstance(pooling, PoolingModule) else pooling for pooling in poolings]
