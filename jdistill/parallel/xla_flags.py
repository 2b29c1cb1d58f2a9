"""The one place of compiler flags: what makes communication run beside computation, set before a backend starts.

XLA reads its flags once, when the first backend starts: those of CUDA from `XLA_FLAGS`, those of TPUs, which only
libtpu knows, from `LIBTPU_INIT_ARGS`. Both stop the process at a name that they do not know, so every name here is
tried by a test. What the user has set stays.
"""

import importlib.util
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Literal, NamedTuple

Platform = Literal["tpu", "cuda", "cpu"]


class Flags(NamedTuple):
    """Flags of one platform, and the variable that they travel in."""

    variable: str
    values: dict[str, str]


FLAGS: dict[Platform, Flags] = {
    # Fuse collectives with computation and let them go on over several fusions: gathers of the batch's vectors and of
    # split parameters, and the all-reduce of gradients. Hops of a ring run beside tiles. The two `data_parallel` flags
    # pipeline the all-reduce of gradients where slices are joined by a data-centre network.
    # Source: AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py (CF_FOR_ALL_GATHER, DATA_PARALLEL_OVERLAP).
    "tpu": Flags(
        "LIBTPU_INIT_ARGS",
        {
            "xla_tpu_enable_async_collective_fusion": "true",
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
            "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
            "xla_tpu_overlap_compute_collective_tc": "true",
            "xla_enable_async_all_gather": "true",
            "xla_enable_async_collective_permute": "true",
            "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
            "xla_tpu_data_parallel_opt_different_sized_ops": "true",
        },
    ),
    # The scheduler that moves computation between the start and the end of a collective, collectives that reach over
    # the turns of a loop, and all gradients of a small encoder in one all-reduce: those of a MiniLM take 92 MB.
    # Source: NVIDIA/JAX-Toolbox, docs/GPU_performance.md.
    "cuda": Flags(
        "XLA_FLAGS",
        {
            "xla_gpu_enable_latency_hiding_scheduler": "true",
            "xla_gpu_enable_pipelined_all_reduce": "true",
            "xla_gpu_enable_pipelined_all_gather": "true",
            "xla_gpu_enable_pipelined_reduce_scatter": "true",
            "xla_gpu_all_reduce_combine_threshold_bytes": str(256 * 2**20),
        },
    ),
    "cpu": Flags("XLA_FLAGS", {}),
}


def set_flags(platform: Platform | None = None, environ: MutableMapping[str, str] | None = None) -> str:
    """Add the flags of a platform to the environment; no effect once JAX has a backend.

    Args:
      platform: by default the one at hand, see `platform_at_hand`.
      environ: by default this process's.

    Returns:
      The flags that were added, for people; those that the user had set already are left out.
    """
    environ = os.environ if environ is None else environ
    flags = FLAGS[platform_at_hand(environ) if platform is None else platform]
    given = environ.get(flags.variable, "")
    named = {word.lstrip("-").partition("=")[0] for word in given.split()}
    added = " ".join(f"--{name}={value}" for name, value in flags.values.items() if name not in named)
    if added:
        environ[flags.variable] = f"{given} {added}".strip()
    return added


def platform_at_hand(environ: MutableMapping[str, str], devices: Path = Path("/dev")) -> Platform:
    """The platform that JAX will choose, told from the environment and the device files, without starting a backend."""
    wanted = environ.get("JAX_PLATFORMS", "").split(",")[0]
    named: dict[str, Platform] = {"tpu": "tpu", "cuda": "cuda", "gpu": "cuda", "cpu": "cpu"}
    if wanted:
        return named.get(wanted, "cpu")
    has_chips = any(devices.glob("accel*")) or any((devices / "vfio").glob("[0-9]*"))
    if has_chips and importlib.util.find_spec("libtpu") is not None:
        return "tpu"
    return "cuda" if any(devices.glob("nvidia[0-9]*")) else "cpu"
