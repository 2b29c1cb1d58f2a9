"""Many runs here train the same tiny student."""

from pathlib import Path
from typing import Any

import pytest

from tests.train.tiny_run import tiny_student


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_student(Path(tmp_path_factory.mktemp("student")))
