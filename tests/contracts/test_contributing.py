"""CONTRIBUTING.md, literally: each step of a section "Add ..." in a copy of the tree, which then passes its tests."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEP = re.compile(r"^`([\w/.]+)`, (a new file|one more \w+)\b.*?\n\n```\w+\n(.*?)```", flags=re.DOTALL | re.MULTILINE)


def steps(title: str) -> list[tuple[str, str, str]]:
    """Path, what is done there, and the text, of each step of a section."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return STEP.findall(section)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("jdistill", "tests", "docs", "configs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(copy: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=copy, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def added(before: str, text: str, path: str) -> str:
    """A file with one more piece: at its end, or in a page of documentation at the end of its first table."""
    if not path.endswith(".md"):
        return f"{before}\n\n{text}" if "def " in before else before + text
    stop = before.index("\n\n", before.index("\n|---|"))
    return f"{before[: stop + 1]}{text}{before[stop + 1 :]}"


def follow(copy: Path, title: str) -> list[str]:
    """Do what a section says; returns the files it touches."""
    done = steps(title)
    for path, what, text in done:
        file = copy / path
        assert file.exists() == (what != "a new file"), f"{path}: {what}"
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text() if file.exists() else ""
        file.write_text(added(before, text, path))
    run(copy, "ruff", "check", "--fix", "--quiet", ".")  # `make format`, which also sorts imports
    run(copy, "ruff", "format", "--quiet", ".")
    return [path for path, _, _ in done]


def test_a_loss_takes_one_file_one_line_one_test_row_and_one_row_of_documentation(copy: Path) -> None:
    touched = follow(copy, "Add a loss")
    assert touched == [
        "jdistill/losses/huber.py",
        "jdistill/losses/table.py",
        "tests/losses/cases/embedding.py",
        "docs/losses.md",
    ]
    lines = {path: len(text.splitlines()) for path, _, text in steps("Add a loss")}
    assert lines["jdistill/losses/table.py"] == lines["docs/losses.md"] == 1
    tests = ("tests/losses/test_parity.py", "tests/losses/test_contracts.py", "tests/parallel/test_in_batch.py")
    found = run(copy, "pytest", "-q", "-n0", "-p", "no:cacheprovider", *tests, "-k", "huber")
    assert int(re.findall(r"(\d+) passed", found)[0]) > 10
    run(copy, "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/contracts/test_docs.py", "-k", "losses")
