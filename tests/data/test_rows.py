import json
import math

import pytest

from jdistill.config import UserError, parse
from jdistill.data import ColumnMap, Row, SourceConfig, fingerprint, read_rows

PAIRS = ColumnMap(query="q", document="d", negatives="n", score="s")
GOOD = {"q": "who", "d": "he", "n": ["she", "it"], "s": 1}


@pytest.fixture
def source(tmp_path):
    def make(rows, columns=PAIRS, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return SourceConfig(path=str(path), columns=columns, **options)

    return make


def test_pairs(source):
    rows = list(read_rows("x", source([GOOD, {**GOOD, "q": "where", "s": "0.25"}])))
    assert rows == [Row("who", "he", ("she", "it"), 1.0), Row("where", "he", ("she", "it"), 0.25)]


def test_plain_texts_are_documents(source):
    assert list(read_rows("x", source([GOOD], ColumnMap(text="d")))) == [Row(None, "he", (), None)]


@pytest.mark.parametrize(("label", "name"), [("no", "no"), (3, "3"), ("3", "3"), (3.0, "3"), (-1, "-1")])
def test_a_label_is_a_name_or_a_whole_number(source, label, name):
    (row,) = read_rows("x", source([{"d": "he", "l": label}], ColumnMap(text="d", label="l")))
    assert row == Row(None, "he", (), None, name)
    (row,) = read_rows("x", source([{**GOOD, "l": label}], PAIRS.model_copy(update={"label": "l"})))
    assert (row.score, row.label) == (1.0, name)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "has no value, expected a label: a string or a whole number. Repair the row, or set .*empty: drop"),
        ("", "has no value, expected a label"),
        (" \u200b", "has no value, expected a label"),
        ("\ud83d", r"is '.ud83d' \(str\), expected a label: .*empty: drop"),
        (math.nan, "has no value, expected a label"),
        (0.5, r"is 0.5 \(float\), expected a label"),
        (True, r"is True \(bool\), expected a label"),
        (["a"], r"is \['a'\] \(list\), expected a label"),
    ],
)
def test_what_is_no_label_is_refused(source, label, message):
    rows = [{"d": "he", "l": "a"}, {"d": "she", "l": label}]
    with pytest.raises(UserError, match=f"row 2, column 'l': {message}"):
        list(read_rows("x", source(rows, ColumnMap(text="d", label="l"))))
    if "has no value" in message or "drop" in message:
        assert len(list(read_rows("x", source(rows, ColumnMap(text="d", label="l"), empty="drop")))) == 1


def test_negatives_may_be_in_several_columns(source):
    rows = [{"q": "a", "d": "b", "n1": "c", "n2": ["d", "e"]}]
    columns = ColumnMap(query="q", document="d", negatives=["n1", "n2"])
    assert next(read_rows("x", source(rows, columns))).negatives == ("c", "d", "e")


def test_texts_keep_their_spaces(source):
    assert next(read_rows("x", source([{"d": " he\n"}], ColumnMap(text="d")))).document == " he\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": ""}, "row 2, column 'q': is '', expected a text. Repair the row, or set data.x.empty: drop"),
        ({"q": " \n"}, "row 2, column 'q': is ' .n', expected a text"),
        ({"d": None}, "row 2, column 'd': has no value, expected a text"),
        ({"d": 7}, r"row 2, column 'd': is 7 \(int\), expected a text. Convert the column"),
        ({"n": ["she", ""]}, "row 2, column 'n': is '', expected a text"),
        ({"n": ["she"]}, "row 2, column 'n': has 1 negatives, expected 2 in every row. .*empty: drop"),
        ({"n": ["a", "b", "c"]}, "row 2, column 'n': has 3 negatives, but earlier rows have 2. Set .*: 2"),
        ({"n": []}, "row 2, column 'n': has no negatives"),
        ({"s": None}, "row 2, column 's': has no value, expected a number"),
        ({"s": "high"}, "row 2, column 's': is 'high', expected a finite number"),
        ({"s": math.nan}, "row 2, column 's': is nan, expected a finite number"),
        ({"s": -math.inf}, "row 2, column 's': is -inf, expected a finite number"),
        ({"s": 1e39}, "row 2, column 's': is 1e.39, expected a finite number"),
        ({"s": [1, 0]}, "row 2, column 's': the row has 2 scores, but earlier rows have 1"),
        ({"s": [1, 0, 0, 0]}, "row 2, column 's': the row has 4 scores for 2 negatives, expected 1, 3 .* or 2 "),
    ],
)
def test_wrong_values_name_file_row_column_and_value(source, change, message):
    rows = read_rows("x", source([GOOD, {**GOOD, **change}]))
    assert next(rows).document == "he"
    with pytest.raises(UserError, match=r"data.x: .*rows.jsonl, " + message):
        next(rows)


SCORED = ColumnMap(query="q", document="d", negatives="n", score=["s", "ns"])


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ({"s": 1, "ns": [0.5, -1]}, (1.0, 0.5, -1.0)),
        ({"s": [1], "ns": [0.5, -math.inf]}, (1.0, 0.5, -math.inf)),
        ({"s": [], "ns": [0.5, -1]}, None),
        ({"s": 0.5, "ns": -1}, (0.5, -1.0)),
    ],
)
def test_several_scores_come_from_one_or_several_columns(source, values, score):
    read = read_rows("x", source([{**GOOD, **values}, {**GOOD, **values}], SCORED))
    if score is None:
        with pytest.raises(UserError, match=r"column 's': has no scores, expected a number. .*empty: drop"):
            next(read)
    else:
        assert [row.score for row in read] == [score, score]
    joined = {**GOOD, "s": [0.5]}
    assert next(read_rows("x", source([joined]))).score == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ns": [0.5, math.nan]}, "row 2, column 'ns': is nan, expected a finite number"),
        ({"ns": [0.5, math.inf]}, "row 2, column 'ns': is inf, expected a finite number"),
        ({"ns": [0.5, None]}, "row 2, column 'ns': has no value, expected a number. .*empty: drop"),
        ({"ns": "[0.5, 1]"}, "row 2, column 'ns': is '.0.5, 1.', expected a finite number"),
        ({"ns": 0.5}, "row 2, column 'ns': the row has 2 scores, but earlier rows have 3"),
        ({"ns": [1, 2, 3]}, "row 2, column 'ns': the row has 4 scores for 2 negatives, expected 1, 3 .* or 2 "),
        ({"s": -math.inf, "ns": [-math.inf] * 2}, "row 2, column 'ns': is -inf, expected .*excludes a candidate"),
    ],
)
def test_wrong_lists_of_scores_name_row_column_and_value(source, change, message):
    good = {**GOOD, "ns": [0.5, 0.25]}
    rows = read_rows("x", source([good, {**good, **change}], SCORED))
    assert next(rows).score == (1.0, 0.5, 0.25)
    with pytest.raises(UserError, match=r"data.x: .*rows.jsonl, " + message):
        next(rows)


@pytest.mark.parametrize(("scores", "kept"), [([9, 3, 2, 1], (9, 3, 2)), ([3, 2, 1], (3, 2)), ([9], 9)])
def test_scores_of_negatives_that_are_not_kept_go_too(source, scores, kept):
    columns = PAIRS.model_copy(update={"keep_negatives": 2})
    row = next(read_rows("x", source([{**GOOD, "n": ["a", "b", "c"], "s": scores}], columns)))
    assert row.negatives == ("a", "b")
    assert row.score == kept


def test_lists_of_positives_give_a_row_each(source):
    """The layout of FlagEmbedding's training data."""
    line = {"query": "q", "pos": ["a", "b"], "neg": ["c", "d"], "pos_scores": [5, 4], "neg_scores": [1, 0]}
    columns = ColumnMap(query="query", document="pos", negatives="neg", score=["pos_scores", "neg_scores"])
    expected = [Row("q", "a", ("c", "d"), (5.0, 1.0, 0.0)), Row("q", "b", ("c", "d"), (4.0, 1.0, 0.0))]
    assert list(read_rows("x", source([line], columns))) == expected
    assert list(read_rows("x", source([line, line], columns, limit=3))) == [*expected, expected[0]]
    with pytest.raises(UserError, match=r"'pos_scores': has 1 scores, expected one for each of the row's 2"):
        list(read_rows("x", source([{**line, "pos_scores": [5]}], columns)))
    with pytest.raises(UserError, match=r"column 'pos': has no value, expected a text"):
        list(read_rows("x", source([{**line, "pos": []}], columns)))


def test_drop_leaves_out_what_is_empty_and_reports_it(source, caplog):
    rows = [{**GOOD, "n": []}, {**GOOD, "q": None}, GOOD, {**GOOD, "n": ["one"]}, {**GOOD, "s": None}]
    assert list(read_rows("x", source(rows, empty="drop"))) == [Row("who", "he", ("she", "it"), 1.0)]
    assert "kept 1 rows, dropped 4" in caplog.text


def test_drop_forgives_no_wrong_value(source):
    with pytest.raises(UserError, match=r"is 7"):
        list(read_rows("x", source([GOOD, {**GOOD, "q": 7}], empty="drop")))


def test_keep_negatives_cuts_and_demands(source):
    columns = ColumnMap(query="q", document="d", negatives="n", keep_negatives=2)
    rows = read_rows("x", source([{**GOOD, "n": ["a", "b", "c"]}, {**GOOD, "n": ["a"]}], columns))
    assert next(rows).negatives == ("a", "b")
    with pytest.raises(UserError, match=r"has 1 negatives, expected 2"):
        next(rows)


def test_no_rows_are_refused(source):
    with pytest.raises(UserError, match=r"data.x: .*rows.jsonl: empty: there are no rows"):
        list(read_rows("x", source([])))
    with pytest.raises(UserError, match=r"all 2 rows lack a text"):
        list(read_rows("x", source([{"d": ""}, {"d": None}], ColumnMap(text="d"), empty="drop")))


def test_limit_counts_kept_rows_and_reads_no_further(source):
    rows = [{"d": ""}, {"d": "a"}, {"d": "b"}, {"d": 7}]
    found = read_rows("x", source(rows, ColumnMap(text="d"), empty="drop", limit=2))
    assert [row.document for row in found] == ["a", "b"]


def test_missing_file_and_column_name_the_source(source, tmp_path):
    with pytest.raises(UserError, match=r"data.x: .*rows.jsonl: has no column 'dd'. It has: q, d, n, s"):
        list(read_rows("x", source([GOOD], ColumnMap(text="dd"))))
    with pytest.raises(UserError, match=r"data.x: .*none.csv: no such file"):
        list(read_rows("x", SourceConfig(path=str(tmp_path / "none.csv"), columns=ColumnMap(text="t"))))


def test_a_key_may_be_left_out_of_some_rows(source):
    rows = [{"d": "a"}, {"d": "b", "q": "c"}]
    found = list(read_rows("x", source(rows, ColumnMap(query="q", document="d"), empty="drop")))
    assert found == [Row("c", "b", (), None)]


def marks(source):
    return fingerprint({"x": source})


def test_fingerprint_changes_with_content_and_configuration(source):
    first = marks(source([GOOD]))
    assert first == marks(source([GOOD]))
    assert json.loads(json.dumps(first)) == first
    assert first != marks(source([GOOD], limit=1))
    assert first != marks(source([{**GOOD, "q": "whe"}]))


def test_fingerprint_knows_the_order_of_sources_and_not_their_paths(source, tmp_path):
    one = source([GOOD])
    assert json.dumps(fingerprint({"a": one, "b": one}), sort_keys=True) != json.dumps(
        fingerprint({"b": one, "a": one}), sort_keys=True
    )
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "rows.jsonl").write_bytes((tmp_path / "rows.jsonl").read_bytes())
    assert marks(one) == marks(one.model_copy(update={"path": str(tmp_path / "moved" / "rows.jsonl")}))


@pytest.mark.parametrize(
    "change", [{"q": "\u200b"}, {"d": "\ud83d"}, {"s": math.nan}, {"q": math.nan}, {"n": ["a", "\0"]}]
)
def test_what_cannot_be_used_is_refused_by_row_or_dropped_and_counted(source, caplog, change):
    rows = [GOOD, {**GOOD, **change}, GOOD]
    with pytest.raises(UserError, match=r"rows.jsonl, row 2, column .*set data.x.empty: drop"):
        list(read_rows("x", source(rows)))
    assert len(list(read_rows("x", source(rows, empty="drop")))) == 2
    assert "kept 2 rows, dropped 1" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"columns": {"text": "t"}}, "set either 'path'"),
        ({"path": "a", "dataset": "b", "columns": {"text": "t"}}, "set either 'path'"),
        ({"path": "a", "streaming": True, "columns": {"text": "t"}}, "streaming: only for 'dataset'"),
        ({"path": "a", "columns": {}}, "has no text column"),
        ({"path": "a", "columns": {"text": "t", "query": "q"}}, "excludes query"),
        ({"path": "a", "columns": {"document": "t"}}, "'query' is missing"),
        ({"path": "a", "columns": {"text": "t", "keep_negatives": 2}}, "'negatives' is empty"),
        ({"path": "a", "columns": {"texts": "t"}}, "columns.texts: unknown key. Did you mean 'text'"),
    ],
)
def test_configuration_mistakes(content, message):
    with pytest.raises(UserError, match=message):
        parse(SourceConfig, content, where="x.yaml")
