"""What JAX is told before it starts: compiler flags, and where compiled programs are kept. JAX is not imported here.

XLA reads its flags once, when the first backend starts: those of CPUs and CUDA from `XLA_FLAGS`, those of TPUs, which
only libtpu knows, from `LIBTPU_INIT_ARGS`. libtpu reads `XLA_FLAGS` too, and every reader stops the process at a name
that it does not know, so every name here is tried by a test. What the user has set stays.
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
    """Flags of one platform, and the variable that they travel in."""

    variable: str
    values: dict[str, str]


FLAGS: dict[Platform, Flags] = {
    # Gathers of the batch's vectors and of split parameters, and hops of a ring, run beside computation; gradients'
    # all-reduce is pipelined where slices are joined by a data-centre network. Fusing gathers with computation
    # (`..._async_collective_fusion`) is left to the compiler: it does so by itself on v5e, and refuses to on v5p.
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
    # XLA of jaxlib 0.10.2 to 0.12.0 hands reductions to the library YNNPACK, and some come out wrong by any factor:
    # jax-ml/jax issues 39103, 39257 and 40412. Without them sums are right.
    # jaxlib from 0.10.0 and libtpu from 0.0.40 know the name.
    "cpu": Flags("XLA_FLAGS", {"xla_cpu_experimental_ynn_fusion_type": "-reduce"}),
}


ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",  # ask no cloud metadata server which TPU this machine has
    "TPU_WORKER_HOSTNAMES": "localhost",  # nor look for the other hosts of its slice
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any valid name
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock: another process may be using this machine's TPU
}
"""What keeps libtpu quiet where it is loaded without a TPU to run on: to compile, or because JAX finds it installed."""

CACHE_BYTES = 4 * 2**30
"""Size at which the cache drops programs that were not used for longest."""

UNLIMITED = "-1"
"""What JAX is told for a cache of any size: then it does not note when a program was last used."""

LOCK_SECONDS = 10
"""So long another process may use the cache before nothing is tidied up in it."""


def prepare(environ: MutableMapping[str, str] | None = None) -> None:
    """Flags of the platform at hand, quiet without a TPU, and a cache of compiled programs; what the user set stays."""
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
    """What computing on a CPU needs to be right, for a process that imports jdistill itself; the user's flags stay.

    A user's own list of changes to the same flag, such as `-dot`, gets ours in addition. One that decides about
    reductions itself, and one that replaces XLA's own list, stays as it is; then `check_compiler` has the last word.

    Not on a TPU's host, where libtpu reads XLA_FLAGS too and ends the process at a name that it does not know.
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
    """Refuse a compiler that gets the sum of a product wrong, which a wrong flag or version brings; takes about 30 ms.

    Five matrices E of 32 x 32 and a constant C: sum((E C) * E) over the columns, which has a closed form. It is the
    smallest shape that came out wrong in every start of jaxlib 0.10.2, 0.11.2 and 0.12.0, by a factor of 7 or more.

    Raises:
      UserError: if the numbers are wrong on the CPU; other devices are not checked.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jdistill.config import UserError

    if jax.default_backend() != "cpu":
        return
    matrices = np.random.default_rng(0).standard_normal((5, 32, 32)).astype(np.float32)
    quick = {"xla_backend_optimization_level": 0}  # YNNPACK is called all the same
    sums = jax.jit(lambda e: jnp.sum((e @ jnp.full_like(e, 2)) * e, axis=-1), compiler_options=quick)
    found = np.asarray(sums(matrices))
    right = 2 * matrices.sum(-1, dtype=np.float64) ** 2
    if not np.allclose(found, right, rtol=1e-4, atol=1e-4 * right.max()):
        name, value = next(iter(FLAGS["cpu"].values.items()))
        raise UserError(
            f"the compiler of jaxlib {version('jaxlib')} computes wrong sums on this CPU with XLA_FLAGS="
            f"{os.environ.get('XLA_FLAGS', '')!r}, so nothing would be learned. Set XLA_FLAGS=--{name}={value} before "
            "JAX starts, or import jdistill before the first computation, which sets it unless you have set another "
            "value (jax-ml/jax issue 39103)."
        )


def keep_programs(environ: MutableMapping[str, str], platform: Platform) -> None:
    """Keep compiled programs in the user's cache folder, so that the next run need not compile them.

    A user's own JAX_COMPILATION_CACHE_DIR counts, and its size is the user's affair: JAX cannot limit that of a folder
    which others fill without a limit. JAX_ENABLE_COMPILATION_CACHE=false switches it off. Programs for CPUs hold
    instructions of this very processor, so processors of different abilities do not share a folder.
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
    """Where things are kept that need not be computed again: a folder in the user's cache folder."""
    home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    return Path(home) / "jdistill"


def drop_incomplete(folder: Path) -> None:
    """Remove programs from a cache with a limit whose writer was killed: JAX cannot read them, nor add any other.

    It writes when a program was last used after the program itself, and holds a lock meanwhile (jax/_src/lru_cache.py).
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
    """A short name for the instructions that this machine's processors have."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else [os.uname().machine]
    found = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return hashlib.sha256(" ".join(sorted(found.split())).encode()).hexdigest()[:12]


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
    given = environ.get(flags.variable, "").strip()
    if given and not given.startswith("-"):  # XLA_FLAGS may name a file of flags
        return ""
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
