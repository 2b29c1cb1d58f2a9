"""Attention kernels for accelerators, which do not materialise the score matrix.

Both treat texts as segments: places with the same number attend to each other. Neither supports dropout.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jdistill.config import UserError

Window = tuple[int | None, int | None]
"""Maximum distance to earlier and to later keys; None: unlimited."""

BLOCKS = (512, 384, 256, 128)
"""Block sizes of the TPU kernel; the largest that divides the row length is used."""


def band(
    length: int, window: Window, *, first: Int[Array, ""] | int = 0, count: int | None = None
) -> Bool[Array, "q l"]:
    """Mask of keys `j` in the window of query `i`, for `count` queries from `first`; default: all queries."""
    before, after = (length if side is None else side for side in window)
    places = jnp.arange(length if count is None else count)
    distance = jnp.arange(length)[None, :] - (places if count is None else places + first)[:, None]
    return (distance >= -before) & (distance <= after)


@partial(jax.jit, static_argnames=("scale", "window", "interpret"))
def splash(
    queries: Float[Array, "n l h d"],
    keys: Float[Array, "n l h d"],
    values: Float[Array, "n l h d"],
    query_segments: Int[Array, "n l"],
    key_segments: Int[Array, "n l"],
    *,
    scale: float,
    window: Window,
    interpret: bool = False,
) -> Float[Array, "n l h d"]:
    """JAX's Pallas kernel for TPUs, for lengths that are multiples of 128.

    Args:
      queries: `[n, l, h, d]`, any float dtype.
      keys: as `queries`.
      values: as `queries`.
      query_segments: `[n, l]` int32; a query attends to the keys of the same segment.
      key_segments: `[n, l]` int32.
      scale: factor of the scores.
      window: as in `attention`; the kernel skips blocks outside it.
      interpret: run on any platform, slowly; for tests.

    Returns:
      `[n, l, h, d]` in the dtype of `values`.

    Raises:
      UserError: if the length is not a multiple of 128.
    """
    # Imported here because the import is slow, and only TPUs and tests need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    length, heads = queries.shape[1:3]
    block = next((size for size in BLOCKS if length % size == 0), None)
    if block is None:
        raise UserError(
            f"student.attention=splash: requires rows of a multiple of 128 tokens, but these have {length}. Set it to "
            "auto, or set loader.pad_to_multiple to 128."
        )
    square = (length, length)
    local = splash_mask.LocalMask(square, window_size=window, offset=0)
    mask = splash_mask.FullMask(square) if window == (None, None) else local
    kernel = splash_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_kernel.BlockSizes(
            **dict.fromkeys(("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv"), block),
            **dict.fromkeys(("block_kv_dkv_compute", "block_q_dq", "block_kv_dq"), block),
        ),
        interpret=interpret,
    )
    # The kernel does not scale scores itself. It takes one row `[h, l, d]`, hence the vmap.
    by_head = [x.transpose(0, 2, 1, 3) for x in (queries * scale, keys, values)]
    segments = splash_kernel.SegmentIds(query_segments, key_segments)  # pyright: ignore[reportArgumentType]
    attended: Array = jax.vmap(kernel)(*by_head, segments)  # pyright: ignore[reportAssignmentType]
    return attended.transpose(0, 2, 1, 3)


def cudnn(
    queries: Float[Array, "n l h d"],
    keys: Float[Array, "n l h d"],
    values: Float[Array, "n l h d"],
    query_segments: Int[Array, "n l"],
    key_segments: Int[Array, "n l"],
    *,
    scale: float,
    window: Window,
) -> Float[Array, "n l h d"]:
    """CuDNN's flash attention, for bfloat16 and float16 on CUDA; arguments as in `splash`.

    Passes a mask, which cuDNN takes as a bias shared by all heads. cuDNN's sequence lengths support only padding on the
    right, and its windows only causal attention.
    """
    # [n 1 q k]
    mask = query_segments[:, None, :, None] == key_segments[:, None, None, :]
    if window != (None, None):
        mask = mask & band(queries.shape[1], window)[None, None]
    return jax.nn.dot_product_attention(queries, keys, values, mask=mask, scale=scale, implementation="cudnn")
