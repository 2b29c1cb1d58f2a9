"""`run_sharded` is the only use of `jax.shard_map`, so its conventions are documented and tested once."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "jdistill"
NAME = "shard_map"


def test_only_one_file_calls_shard_map():
    found = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if uses_shard_map(path)]
    assert found == ["parallel/mesh.py"]


def uses_shard_map(path: Path) -> bool:
    """Whether a file names shard_map in its code, be it by an attribute, an import or as it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == NAME:
            return True
        if isinstance(node, ast.Name) and node.id == NAME:
            return True
        if isinstance(node, ast.ImportFrom | ast.Import) and any(NAME in each.name.split(".") for each in node.names):
            return True
    return False
