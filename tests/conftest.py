"""Strict numerics for every test: eight CPU devices, no silent dtype or rank promotion, shapes checked.

JDISTILL_TEST_PLATFORM=cuda or tpu runs tests on the devices of this machine instead; those of tests/train/
test_microbatches.py take however many there are, and are worth it: compilers got the gradient of pieces wrong before.
"""

import os
from collections.abc import Iterator

PLATFORM = os.environ.get("JDISTILL_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # every test compiles what it runs
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping  # noqa: E402

# Before the first import of the package, so that every annotated function checks shapes and dtypes as it runs.
_hook = jaxtyping.install_import_hook(
    ["jdistill.losses", "jdistill.parallel", "jdistill.student.pooling"], "beartype.beartype"
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if PLATFORM != "cpu":  # by default accelerators round what they multiply, where tests compare to 1e-5
    jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session", autouse=True)
def eight_devices() -> None:
    if PLATFORM == "cpu":
        assert jax.device_count() == 8, "tests need 8 virtual CPU devices; another XLA_FLAGS got in first"


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """Programs of one file are of no use to the next, and fill gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly() -> Iterator[None]:
    """For rooms that compare runs with runs, most of whose time is compiling what runs for a few steps.

    Elsewhere programs are compiled as users' are. Processes that a test starts inherit it, so they stay comparable.
    """
    with pytest.MonkeyPatch.context() as patch:
        if PLATFORM == "cpu":
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
            jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
