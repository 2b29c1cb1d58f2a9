"""What the documentation shows as configuration is one."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from jdistill.config import parse
from jdistill.losses import LEAF_LOSSES
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


@pytest.mark.parametrize("page", ["README.md", "docs/losses.md", "docs/students.md", "docs/training.md"])
def test_configurations_in_the_documentation_are_valid(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        parse(Recipe, REST | yaml.safe_load(block), where=page)


def test_the_page_of_losses_names_every_kind() -> None:
    text = (ROOT / "docs/losses.md").read_text()
    kinds = [member.model_fields["kind"].default for member in LEAF_LOSSES]
    assert [kind for kind in (*kinds, "matryoshka", "adaptive_layer") if f"`{kind}`" not in text] == []


@pytest.mark.parity
def test_the_page_of_losses_has_a_row_for_each_loss_of_sentence_transformers() -> None:
    from sentence_transformers.sentence_transformer import losses

    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "docs/losses.md").read_text(), flags=re.MULTILINE)
    assert {name for name, _ in rows} >= {*losses.__all__}
    kinds = {member.model_fields["kind"].default for member in LEAF_LOSSES} | {"matryoshka", "adaptive_layer"}
    for name, ours in rows:
        named = kinds & {*re.findall(r"`(\w+)`", ours)}
        assert named or ours.startswith(("none", "as ")), f"{name}: neither names a loss nor says why there is none"


@pytest.mark.parity
def test_the_page_of_losses_speaks_of_each_loss_of_sparse_encoders() -> None:
    from sentence_transformers.sparse_encoder import losses

    text = (ROOT / "docs/losses.md").read_text()
    unnamed = [name for name in losses.__all__ if f"`{name}`" not in text]
    dense = [f"`{name.removeprefix('Sparse')}`" for name in unnamed]
    assert all(name.startswith("Sparse") for name in unnamed)
    assert [name for name in dense if name not in text] == []


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
