"""Many runs here train the same tiny student; some need a whole job on disk."""

from pathlib import Path
from typing import Any

import pytest

from jdistill.config import parse
from jdistill.recipe import Recipe
from jdistill.verbs import embed
from tests.train.tiny_run import tiny_student
from tests.verbs.conftest import Job, make_job


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_student(Path(tmp_path_factory.mktemp("student")))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Pairs, embedded."""
    made = make_job(tmp_path_factory.mktemp("job"))
    embed(parse(Recipe, made.content, where="x.yaml"))
    return made
