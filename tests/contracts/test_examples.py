"""The examples in docstrings give what they show."""

import doctest
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdistill

ROOT = Path(jdistill.__file__).parent
WITH_EXAMPLES = sorted(path for path in ROOT.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
NAMES = {"jax": jax, "jnp": jnp, "np": np}
"""What an example need not import."""


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_of(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(".".join(("jdistill", *path.relative_to(ROOT).with_suffix("").parts)))
    for test in doctest.DocTestFinder().find(module, extraglobs=NAMES):
        shown: list[str] = []
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=shown.append)
        assert result.failed == 0, "".join(shown)
