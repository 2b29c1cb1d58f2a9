"""Strict numerics for every test: eight CPU devices, no silent dtype or rank promotion, shapes checked."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # every test compiles what it runs
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping

# Before the first import of the package, so that every annotated function checks shapes and dtypes as it runs.
_hook = jaxtyping.install_import_hook(
    ["jdistill.losses", "jdistill.parallel", "jdistill.student.pooling"], "beartype.beartype"
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def eight_devices() -> None:
    assert jax.device_count() == 8, "tests need 8 virtual CPU devices; another XLA_FLAGS got in first"
