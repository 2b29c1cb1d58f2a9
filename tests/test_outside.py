"""Classes of other packages in a recipe: found by module or entry point, read back, or refused where they are wrong."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from jdistill.config import UserError, dump_yaml, parse
from jdistill.recipe import Recipe

MINE = """
from typing import ClassVar, Literal
from jdistill.evaluate import EvaluatorConfig
from jdistill.losses import LossConfig
from jdistill.student.pooling import PoolingModule

class Sharp(LossConfig):
    strength: float = 1.0
    def __call__(self, inputs):
        return inputs.rows * self.strength

class Bare(LossConfig):
    pass

class Fixed(Sharp):
    kind: Literal["fixed"] = "fixed"

class Gate(PoolingModule):
    wide: int = 1
    def width(self, encoder):
        return encoder.width
    def init(self, encoder, key):
        return {}
    def __call__(self, hidden, rows, params, encoder, encoder_params):
        return rows.total(hidden)

class Halfway(EvaluatorConfig):
    limit: int = 1
    primary: ClassVar[str] = "half"
    def __call__(self, encode):
        return {"half": 0.5}
    def metrics(self, width):
        return ["half"]
"""


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """A module `outside_mine`, others that cannot be imported, and entry points that name two of its classes."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "outside_mine.py").write_text(MINE)
    (folder / "outside_broken.py").write_text("1 / 0\n")
    (folder / "outside_lacks.py").write_text("import outside_nowhere\n")
    info = folder / "outside_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[jdistill.losses]\nfixed = outside_mine:Fixed\nsharp_one = outside_mine:Sharp\n"
        "[jdistill.evaluators]\nhalfway = outside_mine:Halfway\n[jdistill.poolings]\ngate = outside_mine:Gate\n"
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def read(**sections) -> Recipe:
    content = {
        "store": "s",
        "run": "r",
        "data": {"text": {"path": "x.parquet", "columns": {"text": "text"}}},
        "student": {"init": "m"},
        "losses": {"term": {"kind": "outside_mine:Sharp"}},
        "train": {"steps": 1},
    }
    return parse(Recipe, content | sections, where="recipe.yaml")


EVERYWHERE = {
    "losses": {
        "plain": {"kind": "outside_mine:Sharp", "strength": 3.0},
        "named": {"kind": "sharp_one"},
        "fixed": {"kind": "fixed"},
        "inside": {"kind": "matryoshka", "dims": [8], "loss": {"kind": "outside_mine:Sharp", "strength": 2.0}},
        "ours": {"kind": "info_nce"},
    },
    "student": {"init": "m", "pooling": ["mean", {"kind": "gate", "wide": 2}, {"kind": "outside_mine:Gate"}]},
    "evaluate": {"half": {"kind": "halfway"}, "other": {"kind": "outside_mine:Halfway", "limit": 4}},
}


def test_a_recipe_with_classes_of_others_reads_back():
    recipe = read(**EVERYWHERE)
    assert [type(term).__name__ for term in recipe.losses.values()] == [
        *("Sharp", "Sharp", "Fixed", "Matryoshka", "InfoNCE")
    ]
    assert recipe.losses["inside"].loss.strength == 2.0
    assert parse(Recipe, yaml.safe_load(dump_yaml(recipe)), where="again") == recipe
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert Recipe(**{name: getattr(recipe, name) for name in Recipe.model_fields}) == recipe


MISTAKES = [
    ({"kind": "outside_mine:Sharp", "strenght": 3}, "losses.term.strenght: unknown key. Did you mean 'strength'?"),
    ({"kind": "outside_mine:Sharp", "strength": "x"}, "losses.term.strength: is 'x'; input should be a valid number"),
    ({"kind": "sharp_one", "strenght": 3}, "losses.term.strenght: unknown key. Did you mean 'strength'?"),
    (
        {"kind": "matryoshka", "dims": [8], "loss": {"kind": "outside_mine:Sharp", "strenght": 3}},
        "losses.term.loss.strenght: unknown key. Did you mean 'strength'?",
    ),
    ({"kind": "outside_mine:Shrap"}, "the module outside_mine has no Shrap. Did you mean 'Sharp'?"),
    ({"kind": "outside_mien:Sharp"}, "there is no module outside_mien. Install its package into"),
    ({"kind": "outside_broken:X"}, "importing outside_broken failed: ZeroDivisionError: division by zero."),
    ({"kind": "outside_lacks:X"}, "importing outside_lacks failed: No module named 'outside_nowhere'."),
    ({"kind": "json:loads"}, "loads is not derived from jdistill.losses.base.LossConfig."),
    ({"kind": "outside_mine:Gate"}, "Gate is not derived from jdistill.losses.base.LossConfig."),
    ({"kind": "outside_mine:Bare"}, "Bare does not define __call__"),
    ({"kind": "outside_mine:Fixed"}, "Fixed declares a kind of its own"),
    ({"kind": "outside_mine:"}, "expected module:Class, such as my_package.losses:MyLoss."),
    ({"kind": "sharpone"}, "unknown kind 'sharpone'. Did you mean 'sharp_one'?"),
    ({"kind": "sigmoidd"}, "unknown kind 'sigmoidd'. Did you mean 'sigmoid'?"),
]


@pytest.mark.parametrize(("loss", "expected"), MISTAKES)
def test_mistakes_are_reported_in_one_paragraph(loss, expected):
    with pytest.raises(UserError) as caught:
        read(losses={"term": loss})
    assert expected in str(caught.value)
    assert str(caught.value).startswith("recipe.yaml: losses.term")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pooling", [{"kind": "outside_mine:Gate", "wdie": 2}, [{"kind": "gate", "wdie": 2}]])
def test_so_are_those_of_a_pooling(pooling):
    with pytest.raises(UserError) as caught:
        read(student={"init": "m", "pooling": pooling})
    assert str(caught.value).endswith("wdie: unknown key. Did you mean 'wide'?")
    assert "\n" not in str(caught.value)


def test_a_name_that_two_packages_give_must_be_written_out(package):
    info = package / "outside_other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jdistill.losses]\ntwice = outside_mine:Sharp\n")
    third = Path(str(info).replace("other", "third"))
    third.mkdir()
    (third / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-third\nVersion: 1.0\n")
    (third / "entry_points.txt").write_text("[jdistill.losses]\ntwice = outside_mine:Bare\n")
    with pytest.raises(UserError, match="the name of several classes: outside_mine:Bare and outside_mine:Sharp"):
        read(losses={"term": {"kind": "twice"}})


def test_the_schema_lets_them_pass():
    schema = json.dumps(Recipe.model_json_schema())
    for group in ("jdistill.losses", "jdistill.poolings", "jdistill.evaluators"):
        assert f"the name of an entry point of {group}" in schema
