"""The limits that keep the code readable, and what an addition costs, as scripts/structure.py measures them."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "jdistill").rglob("*.py"))
COSTS = {"loss": 2, "pooling with parameters": 3, "evaluator": 2, "encoder": 2, "optimizer": 1}

_spec = importlib.util.spec_from_file_location("structure", ROOT / "scripts/structure.py")
assert _spec is not None
assert _spec.loader is not None
structure = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(structure)


def test_no_file_is_longer_than_350_lines():
    assert [path.name for path in FILES if len(path.read_text().splitlines()) > 350] == []


def test_no_folder_has_more_than_25_files_side_by_side():
    assert [folder for folder, count in Counter(path.parent for path in FILES).items() if count > 25] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTS)
def test_an_addition_takes_few_files(name):
    assert len(structure.touched(structure.additions()[name])) == COSTS[name]


def test_lines_are_counted_by_what_they_hold():
    source = '"""Doc."""\n\n# why\nx = 1  # beside code\n\ndef f():\n    """Doc."""\n    return (\n        x\n    )\n'
    assert structure.comment_lines(source) == 1
    assert structure.code_lines(source) == 5
