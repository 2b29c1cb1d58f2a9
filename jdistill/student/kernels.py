"""Attention kernels of accelerators, which never hold the scores of all pairs of places in memory.

Both see texts as segments: places with the same number attend each other. Neither drops weights.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jdistill.config import UserError

Window = tuple[int | None, int | None]
"""How many places before itself and after itself a place attends at most; None without a limit."""

BLOCKS = (512, 384, 256, 128)
"""Places of a row that the TPU kernel takes at a time: the largest that divides the length."""


def band(
    length: int, window: Window, *, first: Int[Array, ""] | int = 0, count: int | None = None
) -> Bool[Array, "q l"]:
    """True where place `i` may attend place `j` by the window, for `count` places `i` from `first` on; else for all."""
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
    """The TPU kernel that comes with JAX (Pallas), for lengths that are multiples of 128.

    Args:
      queries: `[n, l, h, d]`, any float.
      keys: the same.
      values: the same.
      query_segments: `[n, l]` int32; a query attends the keys of its own number.
      key_segments: `[n, l]` int32.
      scale: multiplies the scores.
      window: as of `attention`; the kernel leaves out blocks that lie outside of it.
      interpret: run it on any platform, slowly; for tests.
    Returns:
      `[n, l, h, d]` in the dtype of `values`.
    Raises:
      UserError: for another length.
    """
    # Here, since nothing but a TPU or a test needs it and it takes a while.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    length, heads = queries.shape[1:3]
    block = next((size for size in BLOCKS if length % size == 0), None)
    if block is None:
        raise UserError(
            f"student.attention=splash: takes rows of a multiple of 128 tokens, but these have {length}. Set it to "
            "auto, or make loader.pad_to_multiple 128."
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
    """CuDNN's flash attention, for bfloat16 and float16 on CUDA; arguments as of `splash`.

    The mask is a bias there, one for all heads. Lengths instead of it would hold only for texts padded on the right,
    and its own windows only for causal attention.
    """
    mask = query_segments[:, None, :, None] == key_segments[:, None, None, :]
    if window != (None, None):
        mask = mask & band(queries.shape[1], window)[None, None]
    return jax.nn.dot_product_attention(queries, keys, values, mask=mask, scale=scale, implementation="cudnn")
