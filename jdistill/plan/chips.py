"""Published figures of the chips that runs are planned for. Nothing here was measured; plans name it an estimate."""

from typing import Literal, NamedTuple


class Chip(NamedTuple):
    """One chip, as its maker describes it."""

    name: str
    platform: Literal["tpu", "cuda"]
    flops: float
    """Dense bfloat16 matrix multiplication, FLOP/s. TPUs multiply float32 at this rate too: by default they round the
    operands to bfloat16 and add up in float32."""
    flops_float32: float
    """Multiplication of float32 matrices as JAX does it by default, FLOP/s; on CUDA that is TF32."""
    memory: int
    """High-bandwidth memory (HBM) that a program may use, bytes."""
    bandwidth: float
    """Of that memory, bytes/s."""
    link: float
    """To one neighbour, one direction, bytes/s. On CUDA: to all others of a server together."""
    axes: int
    """Numbers in the shape of a slice."""
    clock: float | None
    """Of the processor whose cycles the TPU compiler estimates, Hz; None where no cycles are estimated."""
    example: str


# TPU: peak rate, bandwidth of HBM and of a link, and clock are those of "How to Scale Your Model" (Austin et al. 2025,
# github.com/jax-ml/scaling-book, tpus.md) and of the chips' pages at cloud.google.com/tpu/docs. The clock of v6e is not
# published and taken to be that of v5p, which fits its peak rate. HBM is what the TPU compiler lets a program use of
# 16, 96 and 32 GB. CUDA: NVIDIA's data sheets of the SXM modules, without sparsity; NVLink: half of 900 GB/s.
GIB = 2**30
CHIPS: dict[str, Chip] = {
    "v5e": Chip("TPU v5e", "tpu", 197e12, 197e12, int(15.75 * GIB), 0.81e12, 45e9, 2, 1.5e9, "v5e:4x4"),
    "v5p": Chip("TPU v5p", "tpu", 459e12, 459e12, int(95.73 * GIB), 2.77e12, 90e9, 3, 1.75e9, "v5p:4x4x4"),
    "v6e": Chip("TPU v6e", "tpu", 918e12, 918e12, int(31.24 * GIB), 1.64e12, 90e9, 2, 1.75e9, "v6e:8x8"),
    "h100": Chip("NVIDIA H100 SXM", "cuda", 989e12, 494e12, 80 * 10**9, 3.35e12, 450e9, 1, None, "h100:8"),
    "h200": Chip("NVIDIA H200 SXM", "cuda", 989e12, 494e12, 141 * 10**9, 4.8e12, 450e9, 1, None, "h200:8"),
}
"""What stands before the colon of a topology -> the chip."""
