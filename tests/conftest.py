"""Strict numerics for every test: eight CPU devices, no silent dtype or rank promotion, shapes checked.

JDISTILL_TEST_PLATFORM=cuda or tpu runs tests on the devices of this machine instead; those of tests/train/
test_microbatches.py take however many there are, and are worth it: compilers got their gradient wrong before.

JDISTILL_TEST_COMPILER=quick, as the Makefile sets it, compiles with the older of XLA's generators of CPU code, checks
no shapes within losses, and leaves out the tests marked `optimized`. These need the compiler that users have; the
Makefile runs them on their own, with all shapes checked.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from resource import RUSAGE_SELF, getrusage
from typing import Any

PLATFORM = os.environ.get("JDISTILL_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM
QUICK = os.environ.get("JDISTILL_TEST_COMPILER") == "quick"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # but for `compiled_quickly`
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping  # noqa: E402

LARGE_HEAP = 3 * 2**20
"""In KiB, as Linux counts."""

EFFORTLESS = "jax_disable_most_optimizations"
OLDER_CODE = "--xla_cpu_use_fusion_emitters=false"
"""Compiles in three quarters of the time where few optimizations are wanted. jax 0.11 no longer has it."""

# Before the first import of the package, so that every annotated function checks shapes and dtypes as it runs. Checks
# double the time of tracing a loss, so in `make test` only the tests marked `optimized` check losses: they have all.
CHECKED = ["jdistill.parallel", "jdistill.student.pooling", *([] if QUICK else ["jdistill.losses"])]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402
from jax.experimental.compilation_cache.compilation_cache import reset_cache  # noqa: E402

import jdistill  # noqa: E402, F401  # sets the flags of this platform

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if QUICK and PLATFORM == "cpu" and jax.__version_info__ < (0, 11):
    # XLA reads its flags once, when a backend starts. Afterwards they are as before: for libtpu, which is loaded later
    # in the same process and aborts at a flag that it does not know, and for processes that tests start.
    flags = os.environ["XLA_FLAGS"]  # with those that the package has added
    os.environ["XLA_FLAGS"] = f"{flags} {OLDER_CODE}"
    jax.devices()
    os.environ["XLA_FLAGS"] = flags
if PLATFORM != "cpu":  # by default accelerators round what they multiply, where tests compare to 1e-5
    jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that in the end no process is left alone with one of them."""
    optimized = [item for item in items if QUICK and item.get_closest_marker("optimized")]
    if optimized:
        config.hook.pytest_deselected(items=optimized)
        items[:] = [item for item in items if item not in optimized]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


TEACHERS = ("torch", "transformers", "sentence_transformers", "all_minilm_l6_v2", "datasets", "sentencepiece")
"""Packages of the `teacher` extra, which a machine that only trains does not have."""


@contextmanager
def _skipped_without_a_teacher() -> Iterator[None]:
    try:
        yield
    except ImportError as error:  # transformers without torch has classes that raise one when they are used
        missing = "torch" if "PyTorch was not found" in str(error) else (error.name or "").split(".")[0]
        if missing in TEACHERS:
            pytest.skip(f"needs {missing}")
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """A test that needs torch is skipped where there is none."""
    with _skipped_without_a_teacher():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, None, None]:
    """The same of a fixture."""
    with _skipped_without_a_teacher():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """The same of a fixture that has failed before: pytest raises its first error again, without setting it up."""
    with _skipped_without_a_teacher():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same of a file that imports torch."""
    report = yield
    text = str(report.longrepr)
    if report.failed and any(f"No module named '{name}" in text for name in TEACHERS):
        report.outcome, report.longrepr = "skipped", (str(report.nodeid), 0, "needs the packages of the teacher extra")
    return report


@pytest.fixture(scope="session", autouse=True)
def eight_devices() -> None:
    if PLATFORM == "cpu":
        assert jax.device_count() == 8, "tests need 8 virtual CPU devices; another XLA_FLAGS got in first"


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """Programs fill gigabytes in the end; the small ones of one file serve the next until then."""
    yield
    if getrusage(RUSAGE_SELF).ru_maxrss > LARGE_HEAP:
        jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most of a test's time is compiling what runs once or twice, so programs are compiled with little effort.

    And once by all test processes of a session and the processes that they start. Files and tests marked `optimized`
    compile as users do.
    """
    if PLATFORM != "cpu" or request.node.get_closest_marker("optimized"):
        yield
        return
    base = tmp_path_factory.getbasetemp()
    settings = {
        EFFORTLESS: True,
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with _configured(settings):
        yield


@pytest.fixture(scope="session", autouse=True)
def tokens_asked_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What transformers answers about a tokenizer is kept for all test processes of a session, and not for the user."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(autouse=True)
def compiled_as_users_do(request: pytest.FixtureRequest) -> Iterator[None]:
    """For tests marked `optimized`: what they check lies within rounding, or is the compiler's own work."""
    if PLATFORM != "cpu" or not request.node.get_closest_marker("optimized") or not jax.config.values[EFFORTLESS]:
        yield
        return
    with _configured({EFFORTLESS: False}):
        jax.clear_caches()
        yield
        jax.clear_caches()


@contextmanager
def _configured(settings: dict[str, Any]) -> Iterator[None]:
    """Options of JAX, here and in processes that are started."""
    before = {name: jax.config.values[name] for name in settings}  # one of them is no attribute
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
        _configure(settings)
        yield
        _configure(before)


def _configure(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()  # JAX looks once whether there is a cache
