"""Attention: the function that all encoders use, and the choice of its kernel."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jdistill.student import kernels
from jdistill.student.kernels import Window
from jdistill.student.layers import dropout

Kernel = Literal["xla", "splash", "cudnn"]
"""Plain XLA on any platform, splash attention (Pallas) on TPU, or cuDNN's flash attention on CUDA."""

ChosenKernel = Literal["auto"] | Kernel
"""`auto` decides by platform and shape, see `attention_path`."""

FULL: Window = (None, None)
"""Bidirectional attention."""

CAUSAL: Window = (None, 0)
"""Causal attention."""

SPLASH_FROM = 256
"""Minimum length for splash attention. Up to 128 tokens attention is less than a tenth of the FLOPs, a row's scores fit
into fast memory, and the kernel would pad narrow heads to 128 lanes without benefit (docs/performance.md)."""

CUDNN_FROM = 128
"""Minimum length for cuDNN: on an H200 a step of a MiniLM is 8 % slower than with XLA for texts of 64 tokens, 11 %
faster for 128 tokens, and 40 % faster for 512 tokens (docs/performance.md)."""

SCORES_BYTES = 256 * 2**20
"""Maximum bytes of one row's float32 scores over all heads, 2,048 tokens with 16 heads. Longer rows are computed in
blocks of queries, which also bounds the memory of the backward pass."""

BLOCK_BYTES = 64 * 2**20
"""Approximate bytes of the scores of one block of queries, over all rows of the batch."""

_MASKED = -1e9
"""Score of a masked key. Finite, so that a row without keys gives the mean of the values instead of NaN."""


def attention_path(
    platform: str, length: int, head_dim: int, dtype: str, dropout: float, *, biased: bool = False
) -> Kernel:
    """The kernel that `attention` uses with `"auto"`.

    Args:
      platform: target of the compilation: `"cpu"`, `"cuda"`, `"rocm"` or `"tpu"`.
      length: row length, in tokens.
      head_dim: width of a head.
      dtype: dtype of the computation.
      dropout: dropout rate of attention weights, which only `xla` supports.
      biased: whether a learned bias is added to the scores, whose gradient only `xla` supports.
    """
    if dropout or biased:
        return "xla"
    if platform == "tpu" and length >= SPLASH_FROM and length % 128 == 0:
        return "splash"
    # Limits of cuDNN on Ampere and later; Hopper also takes heads up to 256 wide.
    takes = dtype in ("bfloat16", "float16") and head_dim % 8 == 0 and head_dim <= 128 and length % 2 == 0
    return "cudnn" if platform == "cuda" and takes and length >= CUDNN_FROM else "xla"


def attention(
    queries: Float[Array, "n l h d"],
    keys: Float[Array, "n l g d"],
    values: Float[Array, "n l g d"],
    places: Bool[Array, "n l"] | Int[Array, "n l"],
    *,
    window: Window = FULL,
    bias: Float[Array, "h l l"] | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    kernel: ChosenKernel = "auto",
) -> Float[Array, "n l h d"]:
    """Scaled dot-product attention of `h` heads, softmax in float32.

        out_i = sum_j softmax_j(q_i k_j / sqrt(d) + bias_ij) v_j

    Args:
      queries: `[n, l, h, d]`, any float dtype.
      keys: `[n, l, g, d]`, where `g` divides `h`; each is shared by `h / g` query heads (grouped-query attention).
      values: as `keys`.
      places: bool mask of valid keys, or, for packed rows, the integer index of each place's text, where only places
        of the same text attend to each other. Without valid keys the result is finite but meaningless.
      window: maximum distance to earlier and to later keys; None: unlimited.
      bias: added to the scores, per head, query and key.
      scale: factor of the scores. Default: `1 / sqrt(d)`.
      dropout_rate: dropout rate of attention weights, applied if a key is given.
      dropout_key: one key, one per row `[n]`, or None.
      kernel: `"auto"` decides by `attention_path` for the platform that the program is compiled for.

    Returns:
      `[n, l, h, d]` in the dtype of `values`. The `xla` kernel computes blocks of queries if the scores of a row would
      exceed `SCORES_BYTES`, except with dropout.

    Source:
      Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Beltagy et al. 2020, arXiv:2004.05150 (windows).
    """
    length, heads, head_dim = queries.shape[1:]
    if keys.shape[2] != heads:
        # Neighbouring query heads share a key head, as in transformers' `repeat_kv`. The kernels get one key per query
        # head.
        keys, values = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (keys, values))
    factor = head_dim**-0.5 if scale is None else scale
    dropped = 0.0 if dropout_key is None else dropout_rate
    plain = Formula(factor, window, bias, dropped, dropout_key)
    # Before an explicitly chosen kernel: a run with `splash` or `cudnn` and dropout still works, with plain XLA.
    if dropped or bias is not None:
        return _xla(queries, keys, values, places, plain)
    one_text = places.dtype == jnp.bool_
    # Kernels see a key if its number equals the query's. With a mask all queries get 1, the number of valid keys:
    # padding then attends to the text, as in `_attend`, and no row of the softmax is empty.
    segments = (jnp.ones(places.shape, jnp.int32) if one_text else places, places.astype(jnp.int32))
    ways = {
        "xla": lambda: _xla(queries, keys, values, places, plain),
        "splash": lambda: kernels.splash(queries, keys, values, *segments, scale=factor, window=window),
        "cudnn": lambda: kernels.cudnn(queries, keys, values, *segments, scale=factor, window=window),
    }
    if kernel != "auto":
        return ways[kernel]()
    # The program may be compiled for another platform than this process's default. JAX can only trace cuDNN attention
    # if there is a GPU, so CUDA is considered only then.
    platforms = ("tpu", "cuda") if jax.default_backend() == "gpu" else ("tpu",)
    dtype = queries.dtype.name
    chosen = {platform: attention_path(platform, length, head_dim, dtype, dropped) for platform in platforms}
    special = {platform: ways[path] for platform, path in chosen.items() if path != "xla"}
    return jax.lax.platform_dependent(default=ways["xla"], **special) if special else ways["xla"]()


class Formula(NamedTuple):
    """Options of attention, without the arrays of queries, keys and values."""

    scale: float
    window: Window
    bias: Float[Array, "h l l"] | None
    dropped: float
    dropout_key: Array | None


def query_block(rows: int, heads: int, length: int) -> int | None:
    """Number of queries per block; None to compute all at once.

    Whether to use blocks depends on the row length only, so that a training step on rows of ordinary length is the same
    program for any batch size.

    Args:
      rows: rows in the batch.
      heads: attention heads.
      length: row length, in tokens.
    """
    if 4 * heads * length * length <= SCORES_BYTES:
        return None
    # The largest power of two that fits; a float32 score has 4 bytes.
    return 1 << (max(BLOCK_BYTES // (4 * rows * heads * length), 1).bit_length() - 1)


def _xla(queries: Array, keys: Array, values: Array, places: Array, how: Formula) -> Array:
    # Heads first and the mask as a bias: the fastest variant on XLA's CPU backend (docs/performance.md).
    queries, keys, values = (x.transpose(0, 2, 1, 3) for x in (queries, keys, values))
    rows, heads, length = queries.shape[:3]
    block = query_block(rows, heads, length)
    if block is None or how.dropped:  # dropout masks are drawn for the whole row at once
        attended = _attend(queries, keys, values, places, places, how)
    else:
        attended = _attend_in_blocks(queries, keys, values, places, how, block)
    return attended.transpose(0, 2, 1, 3)


def _attend_in_blocks(
    queries: Array, keys: Array, values: Array, places: Array, how: Formula, block: int
) -> Float[Array, "n h l d"]:
    """The same result, in blocks of queries over all rows and heads; the backward pass recomputes their scores."""
    length = queries.shape[2]
    starts = jnp.arange(0, length, block)
    filled = len(starts) * block - length
    # `lax.map` needs equal blocks. The filler's results are cut off at the end.
    queries = jnp.pad(queries, ((0, 0), (0, 0), (0, filled), (0, 0)))
    of_queries = jnp.pad(places, ((0, 0), (0, filled)))
    bias = None if how.bias is None else jnp.pad(how.bias, ((0, 0), (0, filled), (0, 0)))

    @jax.checkpoint
    def one(start: Int[Array, ""]) -> Float[Array, "n h q d"]:
        here = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=block)
        part = how._replace(bias=None if bias is None else here(bias, axis=1))
        return _attend(here(queries, axis=2), keys, values, here(of_queries, axis=1), places, part, first=start)

    # [blocks n h q d] -> [n h blocks q d]
    attended = jnp.moveaxis(jax.lax.map(one, starts), 0, 2)
    return attended.reshape(*queries.shape)[:, :, :length]


def _attend(
    queries: Float[Array, "n h q d"],
    keys: Float[Array, "n h l d"],
    values: Float[Array, "n h l d"],
    of_queries: Bool[Array, "n q"] | Int[Array, "n q"],
    of_keys: Bool[Array, "n l"] | Int[Array, "n l"],
    how: Formula,
    *,
    first: Int[Array, ""] | int = 0,
) -> Float[Array, "n h q d"]:
    """Attention of the queries that start at place `first` to all keys; `how.bias` is that of these queries."""
    scores = jnp.einsum("nhld,nhmd->nhlm", queries, keys, preferred_element_type=jnp.float32)
    one_text = of_keys.dtype == jnp.bool_
    # A mask restricts keys only; padding attends to the text too, and its result is never read.
    seen = of_keys[:, None, :] if one_text else of_queries[:, :, None] == of_keys[:, None, :]
    if how.window != FULL:
        seen = seen & kernels.band(of_keys.shape[1], how.window, first=first, count=of_queries.shape[1])[None]
    scores = scores * how.scale + jnp.where(seen, 0.0, _MASKED)[:, None]
    biased = scores if how.bias is None else scores + how.bias[None].astype(jnp.float32)
    weights: Any = _softmax(biased, values.dtype)  # Any: custom_vjp functions have no return type
    weights = dropout(weights, how.dropped, how.dropout_key)
    return jnp.einsum("nhlm,nhmd->nhld", weights, values)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(scores: Float[Array, "n h l m"], dtype: jnp.dtype) -> Float[Array, "n h l m"]:
    """Softmax over the last axis in float32, returned in `dtype`.

    The backward pass `w (g - sum(w g))` reads only the weights, so no float32 scores are kept.
    """
    return _softmax_forward(scores, dtype)[0]


def _softmax_forward(scores: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
    return weights, weights


def _softmax_backward(dtype: jnp.dtype, weights: Array, gradient: Array) -> tuple[Array]:
    del dtype
    wide, upstream = weights.astype(jnp.float32), gradient.astype(jnp.float32)
    return (wide * (upstream - (wide * upstream).sum(-1, keepdims=True)),)


_softmax.defvjp(_softmax_forward, _softmax_backward)
