"""Published specifications of the chips that runs are planned for. None were measured; plans label them estimates."""

from typing import Literal, NamedTuple


class Chip(NamedTuple):
    """Specification of one chip."""

    name: str
    platform: Literal["tpu", "cuda"]
    flops: float
    """Dense bfloat16 matrix multiplication, FLOP/s. TPUs multiply float32 at this rate, too: by default they round the
    operands to bfloat16 and accumulate in float32."""
    flops_float32: float
    """float32 matrix multiplication with JAX's default precision, FLOP/s; on CUDA that is TF32."""
    memory: int
    """High-bandwidth memory (HBM) available to a program, bytes."""
    bandwidth: float
    """HBM bandwidth, bytes/s."""
    link: float
    """Bandwidth to one neighbour, one direction, bytes/s. On CUDA: to all others of a server together."""
    axes: int
    """Number of axes of a slice's shape."""
    clock: float | None
    """Clock of the core whose cycles the TPU compiler estimates, Hz; None without cycle estimates."""
    example: str


# TPU: peak rate, bandwidth of HBM and of a link, and clock are from "How to Scale Your Model" (Austin et al. 2025,
# github.com/jax-ml/scaling-book, tpus.md) and the chips' pages at cloud.google.com/tpu/docs. The clock of v6e is not
# published; v5p's is used, which is consistent with v6e's peak rate. HBM is what the TPU compiler makes available of
# 16, 96 and 32 GB. CUDA: NVIDIA's data sheets of the SXM modules, without sparsity; NVLink: half of 900 GB/s.
GIB = 2**30
CHIPS: dict[str, Chip] = {
    "v5e": Chip("TPU v5e", "tpu", 197e12, 197e12, int(15.75 * GIB), 0.81e12, 45e9, 2, 1.5e9, "v5e:4x4"),
    "v5p": Chip("TPU v5p", "tpu", 459e12, 459e12, int(95.73 * GIB), 2.77e12, 90e9, 3, 1.75e9, "v5p:4x4x4"),
    "v6e": Chip("TPU v6e", "tpu", 918e12, 918e12, int(31.24 * GIB), 1.64e12, 90e9, 2, 1.75e9, "v6e:8x8"),
    "h100": Chip("NVIDIA H100 SXM", "cuda", 989e12, 494e12, 80 * 10**9, 3.35e12, 450e9, 1, None, "h100:8"),
    "h200": Chip("NVIDIA H200 SXM", "cuda", 989e12, 494e12, 141 * 10**9, 4.8e12, 450e9, 1, None, "h200:8"),
}
"""Chip name in a topology, before the colon -> chip."""
