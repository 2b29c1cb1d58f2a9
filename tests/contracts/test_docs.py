"""What the documentation shows as configuration is one."""

import re
from pathlib import Path

import pytest
import yaml

from jdistill.config import parse
from jdistill.losses import Members
from jdistill.recipe import Recipe

ROOT = Path(__file__).parents[2]
REST = {
    "store": "s",
    "run": "r",
    "data": {"text": {"path": "x.parquet", "columns": {"text": "text"}}},
    "teachers": {"bge": {"model": "m"}, "minilm": {"model": "m"}},
    "student": {"init": "m"},
    "train": {"steps": 1},
}


@pytest.mark.parametrize("page", ["README.md", "docs/losses.md"])
def test_configurations_in_the_documentation_are_valid(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        parse(Recipe, REST | yaml.safe_load(block), where=page)


def test_the_page_of_losses_names_every_kind() -> None:
    text = (ROOT / "docs/losses.md").read_text()
    kinds = [member.model_fields["kind"].default for member in Members.__args__]
    assert [kind for kind in (*kinds, "matryoshka", "adaptive_layer") if f"`{kind}`" not in text] == []
