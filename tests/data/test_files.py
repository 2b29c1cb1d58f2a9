import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jdistill.config import UserError
from jdistill.data.files import file_batches, find_files, read_columns

ROWS = [("who", 'a "quoted", text', 1.5), ("wo", "zwei\nZeilen, ü", 2.0), ("où", "trois", 3.0)]


def write_parquet(path, rows=ROWS):
    columns = list(zip(*rows, strict=True))
    pq.write_table(pa.table({"q": columns[0], "d": columns[1], "s": columns[2], "other": columns[0]}), path)


def write_csv(path, rows=ROWS, delimiter=","):
    lines = [delimiter.join(["q", "d", "s"])]
    lines += [delimiter.join([q, '"' + d.replace('"', '""') + '"', str(s)]) for q, d, s in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_jsonl(path, rows=ROWS):
    lines = [json.dumps(dict(zip("qds", row, strict=True)), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


WRITERS = {
    "rows.parquet": write_parquet,
    "rows.csv": write_csv,
    "rows.tsv": lambda path: write_csv(path, delimiter="\t"),
    "rows.jsonl": write_jsonl,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_columns(tmp_path, name):
    WRITERS[name](tmp_path / name)
    columns = read_columns(tmp_path / name, ["d", "s"])
    assert columns == {"d": [row[1] for row in ROWS], "s": [1.5, 2.0, 3.0]}


def test_text_that_looks_like_a_number_stays_text_in_a_csv_batch(tmp_path):
    (tmp_path / "a.csv").write_text("q,d\n007,1e3\nNA,\n")
    (batch,) = file_batches(tmp_path / "a.csv", ["q", "d"])
    assert batch.columns == {"q": ["007", "NA"], "d": ["1e3", ""]}


def test_compressed_text_formats(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert read_columns(tmp_path / "b.jsonl.gz", ["q"]) == read_columns(tmp_path / "a.jsonl", ["q"])


def test_batches_number_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("jdistill.data.files._BATCH_ROWS", 2)
    for name, write in list(WRITERS.items())[::3]:
        write(tmp_path / name)
        batches = list(file_batches(tmp_path / name, ["q"]))
        assert [(batch.first, batch.size) for batch in batches] == [(1, 2), (3, 1)], name


def test_long_lines_are_joined_over_block_borders(tmp_path):
    texts = ["x" * 700_000, "y" * 900_000, "z"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"t": text}) for text in texts))
    assert read_columns(tmp_path / "a.jsonl", ["t"]) == {"t": texts}


def test_glob_reads_files_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"t": name}))
    assert read_columns(str(tmp_path / "*.jsonl"), ["t"]) == {"t": ["a", "b"]}


def test_missing_column_lists_those_that_exist(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}: has no column 'dd'. It has: q, d, s.*Did you mean 'd'\?"):
            read_columns(tmp_path / name, ["q", "dd"])


def test_missing_file_guesses(tmp_path):
    write_csv(tmp_path / "rows.csv")
    with pytest.raises(UserError, match=r"row\.csv: no such file\. Did you mean .*rows\.csv"):
        find_files(str(tmp_path / "row.csv"))
    with pytest.raises(UserError, match=r"no such file"):
        read_columns(tmp_path / "nothing*.csv", ["q"])
    with pytest.raises(UserError, match=rf"{tmp_path}: no such file\. It is a folder; .*\*\.parquet'"):
        find_files(str(tmp_path))
    (tmp_path / "link.csv").symlink_to("gone.csv")
    with pytest.raises(UserError, match=r"link\.csv: no such file\. It is a link to 'gone\.csv', which is not there"):
        find_files(str(tmp_path / "link.csv"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": \n', "a.jsonl, row 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, row 1: .*expected one JSON object per line"),
        ("a.jsonl", b'{"q": "\xff"}\n', "a.jsonl, row 1: not valid JSON"),
        ("a.parquet", b"no parquet", "a.parquet: cannot be read as parquet"),
        ("a.csv", b"q,d\n1\n1,2,3\n", "a.csv: cannot be read as csv"),
        ("a.csv", b"q\n\xff\n", "a.csv: cannot be read as csv"),
        ("a.xlsx", b"x", r"a.xlsx: unknown kind of file. Expected one of .parquet, .csv"),
    ],
)
def test_damaged_files_are_the_users_mistake(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_columns(tmp_path / name, ["q"])
