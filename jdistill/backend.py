"""JAX setup before its first import: compiler flags and the compilation cache.

XLA reads its flags once, when the first backend starts: CPU and CUDA flags from `XLA_FLAGS`, TPU flags, known to libtpu
only, from `LIBTPU_INIT_ARGS`. libtpu reads `XLA_FLAGS` too, and every reader aborts on an unknown name, so tests
exercise every name used here. Values set by the user are kept.
"""

import hashlib
import importlib.util
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

Platform = Literal["tpu", "cuda", "cpu"]


class Flags(NamedTuple):
    """Flags of one platform, and the environment variable to set them in."""

    variable: str
    values: dict[str, str]


FLAGS: dict[Platform, Flags] = {
    # Run all-gathers (of vectors and of sharded parameters) and ring permutes asynchronously; pipeline the gradients'
    # all-reduce where slices are connected by a data-centre network. Fusing gathers with computation
    # (`..._async_collective_fusion`) is left to the compiler: it is on by default on v5e and rejected on v5p.
    # Source: AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py (DATA_PARALLEL_OVERLAP, asynchronous gathers).
    "tpu": Flags(
        "LIBTPU_INIT_ARGS",
        {
            "xla_enable_async_all_gather": "true",
            "xla_enable_async_collective_permute": "true",
            "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
            "xla_tpu_data_parallel_opt_different_sized_ops": "true",
        },
    ),
    # Latency-hiding scheduling, collectives pipelined across loop iterations, and one all-reduce for all gradients of
    # a small encoder (92 MB for MiniLM).
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
    # In jaxlib 0.10.2 to 0.12.0, XLA delegates reductions to YNNPACK, which gets some of them wrong by any factor
    # (jax-ml/jax issues 39103, 39257 and 40412), so that is turned off.
    # The flag exists in jaxlib >= 0.10.0 and libtpu >= 0.0.40.
    "cpu": Flags("XLA_FLAGS", {"xla_cpu_experimental_ynn_fusion_type": "-reduce"}),
}


ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not query the cloud metadata server
    "TPU_WORKER_HOSTNAMES": "localhost",  # do not look for other hosts of a slice
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any valid name
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock: another process may be using this machine's TPU
}
"""Environment for using libtpu without a TPU: to compile for one, or because JAX loads it whenever it is installed."""

CACHE_BYTES = 4 * 2**30
"""Maximum size of the compilation cache in bytes; the least recently used programs are evicted."""

UNLIMITED = "-1"
"""JAX's value for an unlimited cache; JAX then keeps no access times."""

LOCK_SECONDS = 10
"""Seconds to wait for the cache lock before skipping cleanup."""


def prepare(environ: MutableMapping[str, str] | None = None) -> None:
    """Set compiler flags, quiet libtpu without a TPU, and enable the compilation cache; keeps the user's settings."""
    environ = os.environ if environ is None else environ
    platform = platform_at_hand(environ)
    if platform != "cpu":
        set_flags(platform, environ)
    set_cpu_flags(environ)
    if platform != "tpu" and "JAX_PLATFORMS" not in environ and importlib.util.find_spec("libtpu") is not None:
        for key, value in ALONE.items():
            environ.setdefault(key, value)
    keep_programs(environ, platform)


def set_cpu_flags(environ: MutableMapping[str, str] | None = None) -> None:
    """Set the flags that correct results on CPUs require, on `import jdistill`; keeps the user's flags.

    If the user has set the same flag to a list of changes, such as `-dot`, ours is appended. A list that already
    mentions reductions, or that replaces XLA's defaults, is kept as it is; `check_compiler` then tests the result.

    Skipped on TPU hosts, where libtpu reads XLA_FLAGS too and aborts on unknown names.
    """
    environ = os.environ if environ is None else environ
    if platform_at_hand(environ) == "tpu" or set_flags("cpu", environ):
        return
    ((name, ours),) = FLAGS["cpu"].values.items()
    words = environ["XLA_FLAGS"].split()
    own = [i for i, word in enumerate(words) if word.lstrip("-").partition("=")[0] == name]
    if own:  # the last one counts
        changes = words[own[-1]].partition("=")[2].split(",")
        if all(change[:1] in ("+", "-") and change[1:] != ours[1:] for change in changes):
            words[own[-1]] += f",{ours}"
            environ["XLA_FLAGS"] = " ".join(words)


def check_compiler() -> None:
    """Check that XLA sums products correctly on the CPU, which some flags and versions break; takes about 30 ms.

    Computes sum((E C) * E) over the columns, for five 32 x 32 matrices E and a constant matrix C, and compares it with
    the closed form. This is the smallest shape that was wrong in every run of jaxlib 0.10.2, 0.11.2 and 0.12.0, by a
    factor of 7 or more.

    Raises:
      UserError: if the result is wrong; other devices are not checked.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jdistill.config import UserError

    if jax.default_backend() != "cpu":
        return
    matrices = np.random.default_rng(0).standard_normal((5, 32, 32)).astype(np.float32)
    quick = {"xla_backend_optimization_level": 0}  # still calls YNNPACK
    sums = jax.jit(lambda e: jnp.sum((e @ jnp.full_like(e, 2)) * e, axis=-1), compiler_options=quick)
    found = np.asarray(sums(matrices))
    right = 2 * matrices.sum(-1, dtype=np.float64) ** 2
    if not np.allclose(found, right, rtol=1e-4, atol=1e-4 * right.max()):
        name, value = next(iter(FLAGS["cpu"].values.items()))
        raise UserError(
            f"the compiler of jaxlib {version('jaxlib')} computes wrong sums on this CPU with XLA_FLAGS="
            f"{os.environ.get('XLA_FLAGS', '')!r}, so training would fail. Set XLA_FLAGS=--{name}={value} before "
            "JAX starts, or import jdistill before the first computation, which sets it unless you have set another "
            "value (jax-ml/jax issue 39103)."
        )


def keep_programs(environ: MutableMapping[str, str], platform: Platform) -> None:
    """Enable JAX's persistent compilation cache in the user's cache folder.

    JAX_COMPILATION_CACHE_DIR takes precedence, without a size limit: JAX cannot enforce one in a folder that other
    programs fill without limit. JAX_ENABLE_COMPILATION_CACHE=false disables the cache. Compiled CPU programs use the
    instructions of this processor, so processors with different instruction sets get separate folders.
    """
    if environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("0", "false", "no"):
        return
    environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    if "JAX_COMPILATION_CACHE_DIR" in environ:
        return
    folder = cache_home(environ) / (platform if platform != "cpu" else f"cpu-{_abilities()}")
    environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    if environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(CACHE_BYTES)) != UNLIMITED:
        drop_incomplete(folder)


def cache_home(environ: Mapping[str, str]) -> Path:
    """The folder for jdistill within the user's cache folder."""
    home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    return Path(home) / "jdistill"


def drop_incomplete(folder: Path) -> None:
    """Remove cached programs whose writer was killed; otherwise JAX could neither read nor add programs.

    In a cache with a size limit, JAX writes the access time after the program, both under a lock
    (jax/_src/lru_cache.py).
    """
    if not _incomplete(folder):
        return
    from filelock import FileLock, Timeout

    with suppress(Timeout, OSError), FileLock(folder / ".lockfile", timeout=LOCK_SECONDS):
        for program in _incomplete(folder):
            program.unlink()


def _incomplete(folder: Path) -> list[Path]:
    programs = [path.name.removesuffix("-cache") for path in folder.glob("*-cache")]
    return [folder / f"{name}-cache" for name in programs if not (folder / f"{name}-atime").exists()]


def _abilities(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Short hash of this machine's CPU instruction set."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else [os.uname().machine]
    found = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return hashlib.sha256(" ".join(sorted(found.split())).encode()).hexdigest()[:12]


def set_flags(platform: Platform | None = None, environ: MutableMapping[str, str] | None = None) -> str:
    """Add the flags of a platform to the environment; has no effect once JAX has a backend.

    Args:
      platform: default: the result of `platform_at_hand`.
      environ: default: the environment of this process.

    Returns:
      The added flags as one string, without those the user had already set.
    """
    environ = os.environ if environ is None else environ
    flags = FLAGS[platform_at_hand(environ) if platform is None else platform]
    given = environ.get(flags.variable, "").strip()
    if given and not given.startswith("-"):  # XLA_FLAGS may name a file of flags
        return ""
    named = {word.lstrip("-").partition("=")[0] for word in given.split()}
    added = " ".join(f"--{name}={value}" for name, value in flags.values.items() if name not in named)
    if added:
        environ[flags.variable] = f"{given} {added}".strip()
    return added


def platform_at_hand(environ: MutableMapping[str, str], devices: Path = Path("/dev")) -> Platform:
    """The platform JAX will choose, derived from environment and device files without starting a backend."""
    wanted = environ.get("JAX_PLATFORMS", "").split(",")[0]
    named: dict[str, Platform] = {"tpu": "tpu", "cuda": "cuda", "gpu": "cuda", "cpu": "cpu"}
    if wanted:
        return named.get(wanted, "cpu")
    has_chips = any(devices.glob("accel*")) or any((devices / "vfio").glob("[0-9]*"))
    if has_chips and importlib.util.find_spec("libtpu") is not None:
        return "tpu"
    return "cuda" if any(devices.glob("nvidia[0-9]*")) else "cpu"
