import subprocess
import sys

import pytest

from jdistill.config import UserError
from jdistill.data import ColumnMap, Row, SourceConfig, read_rows

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path):
    """A data set as it lies on the hub: a folder of parquet files."""
    rows = {"q": ["a", "b"], "d": ["c", "d"], "n": [["e"], ["f"]], "s": [0, 1]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "set" / "train.parquet"))
    return tmp_path / "set"


COLUMNS = ColumnMap(query="q", document="d", negatives="n", score="s")
ROWS = [Row("a", "c", ("e",), 0.0), Row("b", "d", ("f",), 1.0)]


@pytest.mark.parametrize("streaming", [False, True])
def test_data_set_gives_rows(folder, streaming, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = SourceConfig(dataset=str(folder), columns=COLUMNS, streaming=streaming)
    assert list(read_rows("x", source)) == ROWS
    with pytest.raises(UserError, match=r"data.x: .*set: has no column 'z'. It has: q, d, n, s"):
        list(read_rows("x", SourceConfig(dataset=str(folder), columns=ColumnMap(text="z"), streaming=streaming)))


def test_saved_data_set_gives_rows(tmp_path):
    rows = {"q": ["a", "b"], "d": ["c", "d"], "n": [["e"], ["f"]], "s": [0, 1]}
    datasets.DatasetDict({"dev": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "saved")
    source = SourceConfig(dataset=str(tmp_path / "saved"), split="dev", columns=COLUMNS)
    assert list(read_rows("x", source)) == ROWS


def test_lists_of_scores_are_read(tmp_path):
    rows = {"q": ["a"], "d": ["c"], "n": [["e", "f"]], "s": [[1.0, 0.5, -float("inf")]]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    (row,) = read_rows("x", SourceConfig(dataset=str(tmp_path / "saved"), columns=COLUMNS))
    assert row.score == (1.0, 0.5, -float("inf"))


def test_what_cannot_be_loaded_is_the_users_mistake(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(UserError, match=r"cannot load split 'validation'"):
        list(read_rows("x", SourceConfig(dataset=str(folder), split="validation", columns=COLUMNS)))


def test_importing_the_room_imports_no_datasets():
    code = "import sys, jdistill.data; assert not {'datasets', 'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
