import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.fuzz.cases import ROWS, recipe
from tests.fuzz.mutate import damage_bytes, damage_table, damage_tree
from tests.fuzz.run import BYTES, SECONDS, Outcome

FINE = Outcome("yaml", 0, "jdistill show", 2, 1.0, 1000, "error: a.yaml: no such file.")


def test_what_counts_as_a_fault():
    assert not FINE.fault
    assert not replace(FINE, code=0, output="").fault
    assert replace(FINE, code=1).fault == "exit code 1"
    assert replace(FINE, code=-9).fault == "exit code -9"
    assert replace(FINE, output="Traceback (most recent call last):\n").fault == "printed a traceback"
    assert replace(FINE, output="").fault == "exit code 2 without saying why"
    assert "GiB" in replace(FINE, peak=BYTES + 1).fault
    assert "longer" in replace(FINE, seconds=SECONDS + 1).fault


def test_damage_is_a_function_of_the_seed_and_changes_something():
    tree, content, table = recipe(), Path(__file__).read_bytes(), pa.Table.from_pylist(ROWS)
    changed = 0
    for seed in range(50):
        first, second = random.Random(seed), random.Random(seed)
        assert damage_bytes(first, content) == damage_bytes(second, content)
        assert repr(damage_tree(first, tree)) == repr(damage_tree(second, tree))
        assert str(damage_table(first, table).to_pylist()) == str(damage_table(second, table).to_pylist())
        changed += repr(damage_tree(first, tree)) != repr(tree)
    assert changed > 40
    assert tree == recipe()


@pytest.mark.slow
def test_a_few_of_each_kind():
    command = [sys.executable, "-m", "tests.fuzz", "--yaml=12", "--data=12", "--folder=6", "--workers=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "XLA_FLAGS": ""})
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "30 passed, 0 failed" in done.stdout
