import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jdistill.config import UserError
from jdistill.data.files import file_chunks, find_files
from jdistill.data.files import read_columns as read_converted
from jdistill.data.values import identifier, number, text

ROWS = [("who", 'a "quoted", text', 1.5), ("wo", "zwei\nZeilen, ü", 2.0), ("où", "trois", 3.0)]
FLAT = [(query, document.replace("\n", " "), score) for query, document, score in ROWS]


def read_columns(path, columns):
    """Columns as they are."""
    return read_converted(path, dict.fromkeys(columns, lambda value: value))


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
    "rows.tsv": lambda path, rows=FLAT: path.write_text("\n".join("\t".join(map(str, row)) for row in ["qds", *rows])),
    "rows.jsonl": write_jsonl,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_columns(tmp_path, name):
    WRITERS[name](tmp_path / name)
    columns = read_converted(tmp_path / name, {"d": text, "s": number})
    rows = FLAT if name.endswith(".tsv") else ROWS
    assert columns == {"d": [row[1] for row in rows], "s": [1.5, 2.0, 3.0]}


def test_text_that_looks_like_a_number_stays_text_in_a_csv_batch(tmp_path):
    (tmp_path / "a.csv").write_text("q,d\n007,1e3\nNA,\n")
    (chunk,) = file_chunks(tmp_path / "a.csv", ["q", "d"])
    assert chunk.columns == {"q": ["007", "NA"], "d": ["1e3", ""]}


def test_compressed_text_formats(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert read_columns(tmp_path / "b.jsonl.gz", ["q"]) == read_columns(tmp_path / "a.jsonl", ["q"])


def test_batches_number_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("jdistill.data.chunk.CHUNK_ROWS", 2)
    for name, write in list(WRITERS.items())[::3]:
        write(tmp_path / name)
        batches = list(file_chunks(tmp_path / name, ["q"]))
        assert [(chunk.first, chunk.size) for chunk in batches] == [(1, 2), (3, 1)], name


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
    with pytest.raises(UserError, match=r"link\.csv: no such file\. It is a link to 'gone\.csv', which does not exist"):
        find_files(str(tmp_path / "link.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": \n', "a.jsonl, row 2: not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, row 1: .*expected one JSON object per line"),
        ("a.jsonl", b'{"q": "\xff"}\n', "a.jsonl, row 1: not valid JSON"),
        ("a.parquet", b"no parquet", "a.parquet: cannot be read as parquet"),
        ("a.csv", b"q,d\n1,2\n\n1,2,3\n", r"a.csv, row 2 \(line 4\): has 3 cells, expected 2"),
        ("a.csv", b"q\n\xff\n", r"a.csv, row 1 \(line 2\): is not UTF-8 \(byte 0xff"),
        ("a.csv", b"", "a.csv: is empty, expected a header line with the column names"),
        ("a.csv", b"q,d,q\n1,2,3\n", "a.csv: has several columns named 'q'"),
        ("a.csv", "q\nx\n".encode("utf-16"), "a.csv: is UTF-16 text"),
        (
            "a.csv",
            b'q,d\na,b\nc,"d\ne,f\n',
            r"a.csv, row 2 \(line 3\): the closing quotation mark of a cell is missing",
        ),
        (
            "a.csv",
            b'q,d\na,"d\ne,f\ng,6" pipe\n',
            r"a.csv, row 1 \(line 2\): there is text after the closing quotation mark",
        ),
        (
            "a.csv",
            b'q,d\na,"d\ne,6"\nf,6" x\n',
            r"row 1 \(line 2\): a quoted cell spans several lines, but in row 2 \(line 4\)",
        ),
        ("a.tsv", b"q\td\na\tb\tc\n", r"a.tsv, row 1 \(line 2\): has 3 cells, expected 2"),
        ("a.jsonl", b'{"q": 1, "d": 2, "q": 3}\n', "a.jsonl, row 1: has the key 'q' twice"),
        (
            "a.jsonl",
            b'\n{"q": ' + b"[" * 200_000 + b"\n",
            r"a.jsonl, row 1 \(line 2\): not valid JSON: nested too deeply",
        ),
        ("a.jsonl", b'{"q": ' + b"9" * 10_000 + b"}\n", "a.jsonl, row 1: not valid JSON: Exceeds the limit"),
        ("a.jsonl", b"", "a.jsonl: has no rows"),
        ("a.xlsx", b"x", r"a.xlsx: unknown file type. Expected one of .parquet, .csv"),
    ],
)
def test_damaged_files_are_the_users_mistake(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_columns(tmp_path / name, ["q"])


def test_quotation_marks_of_a_tsv_are_text(tmp_path):
    (tmp_path / "a.tsv").write_text('q\td\n"a" b\t"20 feet\nc\td"\n')
    assert read_columns(tmp_path / "a.tsv", ["q", "d"]) == {"q": ['"a" b', "c"], "d": ['"20 feet', 'd"']}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_and_a_byte_order_mark(tmp_path, end):
    (tmp_path / "a.csv").write_bytes(("\ufeff" + end.join(["q,d", "a,b", '"c\u2028\x85 ""x""","d\0"', ""])).encode())
    assert read_columns(tmp_path / "a.csv", ["q", "d"]) == {"q": ["a", 'c\u2028\x85 "x"'], "d": ["b", "d\0"]}
    (tmp_path / "a.tsv").write_bytes(("\ufeff" + end.join(["q\td", "a\tb", "", "c\td"])).encode())
    assert read_columns(tmp_path / "a.tsv", ["q"]) == {"q": ["a", "c"]}
    (tmp_path / "a.jsonl").write_bytes(("\ufeff" + end.join(['{"q": "a"}', "", '{"q": "b"}'])).encode())
    assert read_columns(tmp_path / "a.jsonl", ["q"]) == {"q": ["a", "b"]}


def test_ids_stay_text(tmp_path):
    (tmp_path / "a.csv").write_text("id\n0042\n10\n")
    assert read_converted(tmp_path / "a.csv", {"id": identifier}) == {"id": ["0042", "10"]}
    (tmp_path / "a.jsonl").write_text('{"id": "0042"}\n{"id": 10}\n')
    assert read_converted(tmp_path / "a.jsonl", {"id": identifier}) == {"id": ["0042", "10"]}


def test_the_row_of_a_wrong_value_is_that_of_its_own_file(tmp_path):
    (tmp_path / "a.csv").write_text("s\n1\n")
    (tmp_path / "b.csv").write_text("s\n\n2\nhigh\n")
    with pytest.raises(UserError, match=r"b.csv, row 2 \(line 4\), column 's': is 'high', expected a finite number"):
        read_converted(str(tmp_path / "*.csv"), {"s": number})


def test_a_parquet_value_that_python_cannot_hold_is_named(tmp_path):
    pq.write_table(pa.table({"q": pa.array([1, 2**31 - 1], pa.date32())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet, row 2, column 'q': is not a readable value of date32"):
        read_columns(tmp_path / "a.parquet", ["q"])
    columns = [pa.array(["a"])] * 2
    pq.write_table(pa.Table.from_arrays(columns, names=["q", "q"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: has several columns named 'q'"):
        read_columns(tmp_path / "a.parquet", ["q"])
