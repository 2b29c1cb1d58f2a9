"""Compile each program of these tests once: many runs here train the same tiny student."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.train.tiny_run import tiny_student


@pytest.fixture(scope="module", autouse=True)
def quick(compiled_quickly: None) -> None:
    """Every file of this room."""


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_student(Path(tmp_path_factory.mktemp("student")))
