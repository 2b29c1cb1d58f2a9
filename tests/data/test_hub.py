import subprocess
import sys

import pytest

from jdistill.config import UserError
from jdistill.data import ColumnMap, Row, SourceConfig, fingerprint, read_rows

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


def test_importing_the_package_imports_no_datasets():
    code = "import sys, jdistill.data; assert not {'datasets', 'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("form", ["numpy", "pandas", "arrow"])
def test_the_format_that_a_data_set_was_saved_with_changes_nothing(tmp_path, form):
    rows = {"q": ["a", "b"], "d": ["c", "d"], "n": [["e"], ["f"]], "s": [0, 1]}
    datasets.Dataset.from_dict(rows).with_format(form, columns=["n"]).save_to_disk(tmp_path / "saved")
    assert list(read_rows("x", SourceConfig(dataset=str(tmp_path / "saved"), columns=COLUMNS))) == ROWS


def test_a_folder_is_known_by_its_content(tmp_path):
    def saved(name, text):
        datasets.Dataset.from_dict({"t": [text]}).save_to_disk(tmp_path / name)
        return fingerprint({"x": SourceConfig(dataset=str(tmp_path / name), columns=ColumnMap(text="t"))})

    assert saved("one", "a") == saved("two", "a")
    assert saved("one", "a") != saved("three", "b")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("suffix", "cell", "text"), [("csv", '"NA"', "NA"), ("tsv", '"NA" 6"', '"NA" 6"')])
def test_cells_of_a_folder_are_strings(tmp_path, monkeypatch, streaming, suffix, cell, text):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    rows = [["t", "s", "l"], [cell, "1", "007"], ["0042", "0.5", "null"]]
    separator = "," if suffix == "csv" else "\t"
    (tmp_path / "set" / f"a.{suffix}").write_text("".join(separator.join(row) + "\n" for row in rows))

    def read(**columns):
        source = SourceConfig(dataset=str(tmp_path / "set"), columns=ColumnMap(**columns), streaming=streaming)
        return list(read_rows("x", source))

    assert read(text="t", label="l") == [Row(None, text, (), None, "007"), Row(None, "0042", (), None, "null")]
    assert [row.score for row in read(query="t", document="l", score="s")] == [1.0, 0.5]
    with pytest.raises(UserError, match=r"has no column 'z'\. It has: t, s, l"):
        read(text="z")


def test_a_split_that_a_saved_table_has_not_is_refused(tmp_path):
    datasets.Dataset.from_dict({"t": ["a", "b"]}).save_to_disk(tmp_path / "saved")
    for split in ("dev", "train[:1]"):
        source = SourceConfig(dataset=str(tmp_path / "saved"), split=split, columns=ColumnMap(text="t"))
        with pytest.raises(UserError, match="was saved as one table without splits, so there is no split"):
            list(read_rows("x", source))


def test_what_decides_no_row_is_no_part_of_a_fingerprint(folder):
    def found():
        return fingerprint({"x": SourceConfig(dataset=str(folder), columns=COLUMNS)})

    before = found()
    for name in (".git/index", ".cache/huggingface/download/train.parquet.metadata", "cache-0123.arrow", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert found() == before
    (folder / "cache-0123.parquet").write_text("x")  # which `datasets` would read
    assert found() != before


def test_a_damaged_file_of_a_data_set_is_the_users_mistake(tmp_path):
    datasets.Dataset.from_dict({"t": ["a" * 1000] * 50}).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-30_000])
    with pytest.raises(UserError, match=r"data.x: .*saved: cannot "):
        list(read_rows("x", SourceConfig(dataset=str(tmp_path / "saved"), columns=ColumnMap(text="t"))))
