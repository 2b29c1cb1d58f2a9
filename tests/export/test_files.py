"""A folder takes another's place all at once or not at all, and nothing that is not an export's is touched."""

import json
import os
from pathlib import Path

import pytest

from jdistill.config import UserError
from jdistill.export.files import MARKER, _hold, replacing


def write(folder, text="new"):
    with replacing(folder) as fresh:
        (fresh / "model.txt").write_text(text)


def test_what_fails_leaves_the_earlier_folder_and_nothing_else(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(TypeError):
        write(tmp_path / "out", None)
    assert (tmp_path / "out" / "model.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for text in ("one", "two"):
        write(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "model.txt").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_the_working_folder_keeps_its_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for text in ("one", "two"):
        write(Path(), text)
        assert sorted(os.listdir(".")) == [MARKER, "model.txt"]
        assert (tmp_path / "here" / "model.txt").read_text() == text
    assert os.listdir(tmp_path) == ["here"]


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to nothing", "damaged list"])
def test_what_no_export_wrote_is_refused_and_kept(tmp_path, kind):
    out = tmp_path / "out"
    out.mkdir()
    mine = out / "mine"
    if kind == "file":
        mine.write_text("years of work")
    elif kind == "damaged list":
        mine.write_text("years of work")
        (out / MARKER).write_text('{"files": ["mi')
    else:
        mine.symlink_to(tmp_path if kind == "link to a folder" else tmp_path / "nothing")
    with pytest.raises(UserError, match=r"contains files that no export wrote"):
        write(out)
    assert os.path.lexists(mine)


def test_a_file_is_no_place(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "out")


def test_what_killed_exports_left_is_removed_unless_another_is_at_work(tmp_path):
    for name in (".out.0123abcd", ".out.0123abcd.old", ".other.0123abcd", ".out.mine"):
        (tmp_path / name).mkdir()
    write(tmp_path / "out")
    with replacing(tmp_path / "out") as fresh:
        (fresh / "model.txt").write_text("first")
        write(tmp_path / "out", "second")
        assert fresh.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123abcd", ".out.mine", "out"]


def test_an_export_killed_between_two_renames_is_put_back(tmp_path):
    (tmp_path / ".out.0123abcd.old").mkdir()
    (tmp_path / ".out.0123abcd.old" / MARKER).write_text(json.dumps({"files": ["model.txt"]}))
    (tmp_path / ".out.0123abcd.old" / "model.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "out"):
        raise ZeroDivisionError
    assert (tmp_path / "out" / "model.txt").read_text() == "old"


def test_another_process_between_its_two_renames_is_left_alone(tmp_path):
    (tmp_path / ".out.0123abcd").mkdir()
    (tmp_path / ".out.0123abcd.old").mkdir()
    lock = _hold(tmp_path / ".out.0123abcd")
    assert lock is not None
    write(tmp_path / "out")
    os.close(lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.0123abcd", ".out.0123abcd.old", "out"]


def test_a_working_folder_that_cannot_be_filled_has_its_content_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path(), "old")
    rename, failures = os.rename, [OSError("the disk is full")]

    def failing(source, target):
        if Path(target) == tmp_path / MARKER and failures:
            raise failures.pop()
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="full"):
        write(Path(), "new")
    monkeypatch.undo()
    assert (tmp_path / "model.txt").read_text() == "old"
    assert (tmp_path / MARKER).is_file()
