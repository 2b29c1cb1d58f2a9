"""Leftovers of a killed process are distinguished from files that a living one is writing."""

import os

import pytest

from jdistill.store import files


@pytest.fixture
def left(tmp_path):
    """Two unfinished things of a dead process of this machine, a folder and a file, and one of this process."""
    dead = 2**22 + 1  # above the largest number that Linux gives
    for name in (f".rows.{files._HOST}.{dead}.tmp", f".rows.{files._HOST}.{os.getpid()}.tmp"):
        (tmp_path / "texts" / name / "train").mkdir(parents=True)
        (tmp_path / "texts" / name / "train" / "a.npy").write_bytes(b"a")
    (tmp_path / f".a.npy.{files._HOST}.{dead}.tmp").write_bytes(b"a")
    (tmp_path / ".a.npy.elsewhere.1.tmp").write_bytes(b"a")
    return tmp_path


def test_what_the_dead_have_left_goes(left):
    files.remove_stale(left)
    kept = sorted(path.name for path in left.rglob("*.tmp"))
    assert kept == sorted([".a.npy.elsewhere.1.tmp", f".rows.{files._HOST}.{os.getpid()}.tmp"])
    files.remove_stale(left, all_hosts=True)
    assert [path.name for path in left.rglob("*.tmp")] == [f".rows.{files._HOST}.{os.getpid()}.tmp"]


def test_others_may_rename_folders_meanwhile(left, monkeypatch):
    """Another process finishes between the listing of a folder and the look into it."""
    listed = os.scandir

    def scandir(path):
        if not isinstance(path, int) and os.path.basename(path) == "train":
            raise FileNotFoundError(path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    files.remove_stale(left)
    assert not (left / f".a.npy.{files._HOST}.{2**22 + 1}.tmp").exists()
