"""Attention: the one function through which every encoder attends."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jdistill.student.layers import dropout

_MASKED = -1e9
"""Score of a masked key. Finite, so that a row without any key gives the mean of the values and not NaN."""


def attention(
    queries: Float[Array, "n l h d"],
    keys: Float[Array, "n m h d"],
    values: Float[Array, "n m h d"],
    mask: Bool[Array, "n m"] | Bool[Array, "n l m"],
    *,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Float[Array, "n l h d"]:
    """Scaled dot-product attention of `h` heads, softmax in float32.

        out_i = sum_j softmax_j(q_i k_j / sqrt(d)) v_j

    Args:
      queries: `[n, l, h, d]`, any float.
      keys: `[n, m, h, d]`.
      values: `[n, m, h, d]`.
      mask: True where a key may be attended, by all queries of the row or by each. Without any such key values are
        finite and have no meaning.
      dropout_rate: share of attention weights to drop, where a key is given.
      dropout_key: a key for this call, one for each row `[n]`, or None.
    Returns:
      `[n, l, h, d]` in the dtype of `values`.
    Source:
      Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    # Heads first, and the mask as a bias: on XLA's CPU backend the fastest of the forms tried (docs/performance.md).
    queries, keys, values = (x.transpose(0, 2, 1, 3) for x in (queries, keys, values))
    scores = jnp.einsum("nhld,nhmd->nhlm", queries, keys, preferred_element_type=jnp.float32)
    by_query = mask[:, None, :] if mask.ndim == 2 else mask
    bias = jnp.where(by_query, 0.0, _MASKED)[:, None]
    weights = _softmax(scores * queries.shape[-1] ** -0.5 + bias)
    weights = dropout(weights, dropout_rate, dropout_key).astype(values.dtype)
    return jnp.einsum("nhlm,nhmd->nhld", weights, values).transpose(0, 2, 1, 3)


@jax.custom_vjp
def _softmax(scores: Float[Array, "n h l m"]) -> Float[Array, "n h l m"]:
    """Softmax over the last axis; the backward pass `w (g - sum(w g))` reads the weights and nothing else."""
    return jax.nn.softmax(scores, axis=-1)


def _softmax_forward(scores: Array) -> tuple[Array, Array]:
    weights = _softmax(scores)
    return weights, weights


def _softmax_backward(weights: Array, gradient: Array) -> tuple[Array]:
    return (weights * (gradient - (weights * gradient).sum(-1, keepdims=True)),)


_softmax.defvjp(_softmax_forward, _softmax_backward)
