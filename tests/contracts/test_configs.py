"""Every shipped configuration is valid, and says in its head how it is run."""

from pathlib import Path

import pytest

from jdistill.verbs import load_recipe

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_there_are_configs():
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_is_valid_and_documented(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    head = path.read_text().split("name:")[0]
    assert f"jdistill train {path.relative_to(path.parents[1])}" in head
