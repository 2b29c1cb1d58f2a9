"""modules.json: what it lists, routers included, or why it lists nothing that can be read."""

import json

import pytest

from jdistill.config import UserError
from jdistill.folders import modules_of
from jdistill.folders.modules import all_modules


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_modules_in_order_and_those_that_a_router_holds(tmp_path):
    write(
        tmp_path / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"},
            {"idx": 1, "name": "end", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
    )
    write(tmp_path / "router_config.json", {"types": {"query_0_X": "evil.X", "document_0_Pooling": "a.b.Pooling"}})
    assert [(m.cls, m.package, m.folder, m.name) for m in modules_of(tmp_path)] == [
        ("Router", "sentence_transformers", tmp_path, "0"),
        ("Normalize", "sentence_transformers", tmp_path / "1_Normalize", "end"),
    ]
    assert [module.type for module in all_modules(tmp_path)] == [
        "sentence_transformers.models.Router",
        "evil.X",
        "a.b.Pooling",
        "sentence_transformers.models.Normalize",
    ]


def test_a_folder_of_transformers_alone_has_none(tmp_path):
    assert modules_of(tmp_path) == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("text", "expected a 'type' and a 'path' for each module"),
        ({"type": "a.B"}, "expected a 'type' and a 'path' for each module"),
        ({"type": None, "path": ""}, "expected a 'type' and a 'path' for each module"),
        ({"type": "a.B", "path": "../other"}, "is outside the model's folder"),
        ({"type": "a.B", "path": "/etc"}, "is outside the model's folder"),
        ({"type": "a.Router", "path": ""}, "has no 'types', the router's modules"),
    ],
)
def test_what_is_no_module_is_refused(tmp_path, entry, said):
    write(tmp_path / "modules.json", [entry])
    with pytest.raises(UserError, match=said):
        list(all_modules(tmp_path))
