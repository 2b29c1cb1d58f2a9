"""JSON of a model's folder: what it holds, or one paragraph."""

import pytest

from jdistill.config import UserError
from jdistill.folders import read_json, read_list


def test_objects_and_lists_are_read_and_absent_files_are_empty(tmp_path):
    (tmp_path / "a.json").write_text('{"ä": [1]}', encoding="utf-8")
    (tmp_path / "b.json").write_text("[{}, 2]")
    assert read_json(tmp_path / "a.json") == {"ä": [1]}
    assert read_list(tmp_path / "b.json") == [{}, 2]
    assert (read_json(tmp_path / "no.json"), read_list(tmp_path / "no.json")) == ({}, [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "contains a JSON list; expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b'"text"', "contains a string; expected a JSON object"),
        (b"3", "contains a number; expected a JSON object"),
        (b"true", "contains a boolean; expected a JSON object"),
    ],
)
def test_a_damaged_file_is_reported_with_its_path(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"config\.json: .*{said}"):
        read_json(path)


def test_an_object_is_no_list(tmp_path):
    (tmp_path / "modules.json").write_text('{"type": "x"}')
    with pytest.raises(UserError, match=r"modules\.json: contains a JSON object; expected a JSON list"):
        read_list(tmp_path / "modules.json")
