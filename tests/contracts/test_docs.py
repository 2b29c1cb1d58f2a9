"""What the documentation shows as configuration is one."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from jdistill.config import parse
from jdistill.losses import Members
from jdistill.recipe import Recipe
from jdistill.student.encoders import Encoder
from jdistill.student.pooling import MODES, Pooling

ROOT = Path(__file__).parents[2]
REST = {
    "store": "s",
    "run": "r",
    "data": {"text": {"path": "x.parquet", "columns": {"text": "text"}}},
    "teachers": {"bge": {"model": "m"}, "minilm": {"model": "m"}},
    "student": {"init": "m"},
    "losses": {"align": {"kind": "embed_cosine", "teacher": "bge"}},
    "train": {"steps": 1},
}


@pytest.mark.parametrize("page", ["README.md", "docs/losses.md", "docs/students.md"])
def test_configurations_in_the_documentation_are_valid(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        parse(Recipe, REST | yaml.safe_load(block), where=page)


def test_the_page_of_losses_names_every_kind() -> None:
    text = (ROOT / "docs/losses.md").read_text()
    kinds = [member.model_fields["kind"].default for member in Members.__args__]
    assert [kind for kind in (*kinds, "matryoshka", "adaptive_layer") if f"`{kind}`" not in text] == []


def test_the_page_of_students_names_every_encoder_and_pooling() -> None:
    text = (ROOT / "docs/students.md").read_text()
    kinds = {kind for union in (Encoder, Pooling) for kind in _kinds(union)}
    assert {"modernbert", "xlm-roberta", "splade"} <= kinds
    assert [kind for kind in (*kinds, *MODES) if not re.search(rf"`(\{{kind: )?{kind}(\}})?`", text)] == []


def _kinds(union: Any) -> set[str]:
    """Every `kind` that a schema of pydantic tells apart."""
    choices = TypeAdapter(union).json_schema().get("$defs", {}).values()
    found = [choice.get("properties", {}).get("kind", {}) for choice in choices]
    return {kind for field in found for kind in field.get("enum", [field.get("const")]) if kind}
