"""Published peaks of the chips that runs are planned for. They bound a step's time; none of them was measured here."""

from typing import Literal, NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """Published figures of one chip."""

    name: str
    platform: Literal["tpu", "cuda"]
    flops: float
    """Dense bfloat16 matrix products, FLOP/s."""
    flops_float32: float
    """float32 matrix products with JAX's default precision, FLOP/s: TPUs round operands to bfloat16, CUDA to TF32."""
    memory: int
    """High-bandwidth memory (HBM) available to a program, bytes."""
    bandwidth: float
    """HBM bandwidth, bytes/s."""
    interconnect: float
    """All links of a chip together, both directions, bytes/s: ICI on TPUs, NVLink on CUDA."""
    axes: int
    """Number of axes of a slice's shape; a TPU has two links along each."""
    example: str

    @property
    def link(self) -> float:
        """One link, one direction, bytes/s; on CUDA to all other chips of a server together."""
        return self.interconnect / 2 / (2 * self.axes if self.platform == "tpu" else 1)


# Peak rate, HBM and bidirectional interconnect per chip:
#   v5e         https://docs.cloud.google.com/tpu/docs/v5e    197 TFLOPs, 16 GB at 819 GBps, 400 GBps
#   v5p         https://docs.cloud.google.com/tpu/docs/v5p    459 TFLOPs, 95 GB at 2765 GBps, 4800 Gbps each way
#   v6e         https://docs.cloud.google.com/tpu/docs/v6e    918 TFLOPs, 32 GB at 1638 GBps, 800 GBps
#   h100, h200  data sheets "NVIDIA H100 Tensor Core GPU" and "NVIDIA H200 Tensor Core GPU", SXM, without sparsity
# Of the HBM of TPUs, what libtpu 0.0.51 makes available to a program, as its out-of-memory messages say.
CHIPS: dict[str, Chip] = {
    "v5e": Chip("TPU v5e", "tpu", 197e12, 197e12, int(15.75 * GIB), 819e9, 400e9, 2, "v5e:4x4"),
    "v5p": Chip("TPU v5p", "tpu", 459e12, 459e12, int(95.73 * GIB), 2765e9, 1200e9, 3, "v5p:4x4x4"),
    "v6e": Chip("TPU v6e", "tpu", 918e12, 918e12, int(31.24 * GIB), 1638e9, 800e9, 2, "v6e:8x8"),
    "h100": Chip("NVIDIA H100 SXM", "cuda", 989e12, 494e12, 80 * 10**9, 3.35e12, 900e9, 1, "h100:8"),
    "h200": Chip("NVIDIA H200 SXM", "cuda", 989e12, 494e12, 141 * 10**9, 4.8e12, 900e9, 1, "h200:8"),
}
"""Chip name in a topology, before the colon -> chip."""
