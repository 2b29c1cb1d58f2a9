"""`jdistill store`: what a store contains, its damage, and teacher vectors to data sets and back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jdistill import cli
from jdistill.store import Store, TeacherWriter
from jdistill.verbs.store import export_dataset
from tests.store.conftest import description, embed, make_store

datasets = pytest.importorskip("datasets")
__all__ = ["make_store"]


@pytest.fixture
def store(make_store) -> Store:
    store = make_store()
    embed(store)
    return store


def test_info_names_texts_rows_teachers_and_sizes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    TeacherWriter(store, "begun", description())
    assert cli.main(["store", "info", str(store.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"store at {store.path}: format 1, ")
    assert lines[2] == "  rows of the role train: 20 with query, document, 1 negative, score"
    assert lines[3] == "  teacher begun: incomplete, 0 of 1 shards. Rerun `jdistill embed` to resume."
    vectors = len(store.teacher("fake"))
    assert lines[4].startswith(f"  teacher fake: {vectors} vectors of width 6, float32, ")
    assert lines[4].endswith("; fake at r1")
    assert cli.main(["store", "info", str(store.path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["texts"]["count"] == len(store.texts)
    assert content["rows"]["train"]["count"] == 20
    assert content["teachers"]["begun"]["complete"] is False
    teacher = content["teachers"]["fake"]
    assert (teacher["model"], teacher["revision"], teacher["width"], teacher["dtype"]) == ("fake", "r1", 6, "float32")
    assert content["bytes"] > teacher["bytes"] > vectors * 6 * 4


def test_verify_reports_damage_in_one_paragraph(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "verify", str(store.path)]) == 0
    assert capsys.readouterr().out.startswith(f"{store.path}: no damage: ")
    shard = store.path / "teachers/fake/shards/00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    (store.path / "teachers/fake/shards/00000.npy").unlink()
    assert cli.main(["store", "verify", str(store.path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(
        f"error: store at {store.path}: 2 problems: {shard.with_name('00000.npy')}: missing; {shard}: damaged"
    )
    assert "rerun `jdistill embed`" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("part", ["", "teachers/fake"])
def test_a_manifest_that_is_no_manifest_is_the_users_mistake(store: Store, part: str) -> None:
    (store.path / part / "manifest.json").write_text("{}")
    for action in ("info", "verify"):
        assert cli.main(["store", action, str(store.path)]) == 2


def test_out_and_in_again(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared, again = str(tmp_path / "shared"), str(tmp_path / "again")
    assert cli.main(["store", "export", str(store.path), shared]) == 0
    assert f"Wrote {shared}: 20 rows, columns query, document, " in capsys.readouterr().out
    assert cli.main(["store", "export", str(store.path), shared]) == 2
    message = capsys.readouterr().err
    assert "exists already" in message
    assert "remove" not in message  # what the user made is the user's
    assert cli.main(["store", "import", shared, again, "teacher=fake"]) == 0
    assert "vectors of teacher 'fake'" in capsys.readouterr().out
    ids = store.rows("train").documents
    one, other = (each.teacher("fake").take(ids, "document") for each in (store, Store.open(again)))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "writer"), [("shared", "save_to_disk"), ("shared.parquet", "to_parquet")])
def test_an_export_is_complete_or_absent(store: Store, tmp_path: Path, monkeypatch, name: str, writer: str) -> None:
    from datasets import Dataset

    whole = getattr(Dataset, writer)

    def fails_at_the_end(self, path):
        whole(self, path)
        raise OSError("no space left")

    monkeypatch.setattr(Dataset, writer, fails_at_the_end)
    folder = tmp_path / "new"
    with pytest.raises(OSError, match="no space left"):
        export_dataset(str(store.path), str(folder / name))
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    export_dataset(str(store.path), str(folder / name))
    assert [path.name for path in folder.iterdir()] == [name]


def test_parquet_needs_a_description(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, again = tmp_path / "shared.parquet", tmp_path / "again"
    assert cli.main(["store", "export", str(store.path), str(file), "role=train", "teacher=fake"]) == 0
    assert "does not say what made the vectors" in capsys.readouterr().out
    assert cli.main(["store", "import", str(file), str(again)]) == 2
    assert "does not say how its vectors were made" in capsys.readouterr().err
    described = ["description.model=fake", "description.prompts.query='query: '"]
    assert cli.main(["store", "import", str(file), str(again), "teacher=other", *described]) == 0
    assert Store.open(again).teacher("other").manifest["description"]["prompts"] == {"query": "query: ", "document": ""}
    table = pq.read_table(file)
    pq.write_table(table.rename_columns([name.replace("document", "text") for name in table.column_names]), file)
    columns = ["columns.query=query", "columns.document=text"]
    shutil.rmtree(again)
    assert cli.main(["store", "import", str(file), str(again), *columns, *described]) == 0


@pytest.mark.parametrize("kind", ["missing", "empty", "damaged", "splits"])
def test_what_is_no_data_set_is_the_users_mistake(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    if kind == "empty":
        source.mkdir()
    elif kind == "damaged":
        source.write_bytes(b"PAR1 but not really")
    elif kind == "splits":
        datasets.DatasetDict({"train": datasets.Dataset.from_dict({"t": ["a"]})}).save_to_disk(source)
    assert cli.main(["store", "import", str(source), str(tmp_path / "store")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: data set {source}: ")
    assert ("Give the folder of one of them" in message) == (kind == "splits")
