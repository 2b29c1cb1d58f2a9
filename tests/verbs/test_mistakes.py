"""Mistakes of the user's: exit code 2, one paragraph with place, value and way out, and nothing lost."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jdistill import cli
from jdistill.config import UserError
from jdistill.verbs.train import check_packing
from tests.tiny import tiny_bert_folder


def refused(capsys, *arguments) -> str:
    """The paragraph that a verb is refused with."""
    capsys.readouterr()  # what making the models printed
    assert cli.main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n\n" not in error
    assert "Traceback" not in error
    return error


def content(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_wrong_key(job, capsys):
    recipe = job.write(train={**job.content["train"], "global_batch_sise": 3})
    assert "train.global_batch_sise: unknown key. Did you mean 'global_batch_size'?" in refused(capsys, "train", recipe)


def test_wrong_type(job, capsys):
    message = refused(capsys, "train", job.write(), "train.steps=many")
    assert "train.steps: is 'many'; input should be a valid integer" in message


def test_missing_file(job, capsys):
    message = refused(capsys, "embed", job.write(), "data.pairs.path=" + str(job.folder / "pears.parquet"))
    assert "pears.parquet" in message
    assert "Did you mean" in message
    assert "no such file" in refused(capsys, "train", job.folder / "recipes.yaml")


def test_store_that_is_not_there(job, capsys):
    message = refused(capsys, "train", job.write())
    assert f"store at {job.folder / 'store'}" in message
    assert "jdistill embed" in message


def test_store_of_another_teacher(embedded, capsys, tmp_path):
    other = tiny_bert_folder(tmp_path / "other", seed=7)
    before = content(embedded.folder / "store")
    recipe = embedded.write("other.yaml", run=str(tmp_path / "run"), teachers={"big": {"model": str(other)}})
    for verb in ("train", "embed"):
        message = refused(capsys, verb, recipe)
        assert "teacher 'big' have other settings" in message
        assert "weight_hash" in message
    assert content(embedded.folder / "store") == before
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_store_of_other_prompts(embedded, capsys):
    teacher = {**embedded.content["teachers"]["big"], "prompts": {"query": "query: "}}
    message = refused(capsys, "train", embedded.write("prompts.yaml", teachers={"big": teacher}))
    assert "prompts" in message
    assert "query: " in message


def test_store_of_other_text(embedded, capsys):
    recipe = embedded.write("text.yaml", data={"pairs": embedded.content["data"]["pairs"]})
    before = content(embedded.folder / "store")
    assert f"store at {embedded.folder / 'store'}" in refused(capsys, "embed", recipe)
    assert content(embedded.folder / "store") == before


def test_widths_that_differ(embedded, capsys, tmp_path):
    narrow = tiny_bert_folder(tmp_path / "narrow", hidden=16)
    student = {"init": str(narrow), "projection": "none"}
    message = refused(capsys, "train", embedded.write("narrow.yaml", student=student, run=str(tmp_path / "run")))
    assert "teacher 'big' has width 32" in message
    assert "student's width is 16" in message


def test_batch_that_does_not_divide(embedded, capsys, tmp_path):
    recipe = embedded.write("odd.yaml", run=str(tmp_path / "run"))
    message = refused(capsys, "train", recipe, "train.global_batch_size=12")
    assert "12 rows does not divide over 8 devices" in message
    assert "8 or 16" in message


def test_batch_larger_than_the_data(embedded, capsys, tmp_path):
    recipe = embedded.write("large.yaml", run=str(tmp_path / "run"))
    assert "has only 48 rows" in refused(capsys, "train", recipe, "train.global_batch_size=64")


@pytest.mark.parametrize("text", ["", "   ", None])
def test_row_with_an_empty_text(job, capsys, text):
    pq.write_table(pa.table({"q": ["a", text], "d": ["b", "c"]}), job.folder / "pairs.parquet")
    message = refused(capsys, "embed", job.write())
    assert "data.pairs" in message
    assert "row 2" in message
    assert "'q'" in message
    assert "empty: drop" in message


def test_empty_data(job, capsys):
    pq.write_table(
        pa.table({"q": pa.array([], pa.string()), "d": pa.array([], pa.string())}), job.folder / "pairs.parquet"
    )
    assert "data.pairs" in refused(capsys, "embed", job.write())


def test_run_begun_with_another_recipe(embedded, capsys, tmp_path):
    recipe = embedded.write("begun.yaml", run=str(tmp_path / "run"))
    assert cli.main(["train", recipe]) == 0
    capsys.readouterr()
    before = content(tmp_path / "run")
    message = refused(capsys, "train", recipe, "train.optimizer.peak_lr=5e-3")
    assert "train.optimizer.peak_lr: 0.001 -> 0.005" in message
    assert {k: v for k, v in content(tmp_path / "run").items() if "checkpoints" in k} == {
        k: v for k, v in before.items() if "checkpoints" in k
    }


def test_evaluate_and_export_of_what_is_no_run(job, capsys, tmp_path):
    assert "--config" in refused(capsys, "evaluate", job.folder / "teacher")
    assert "config.yaml" in refused(capsys, "export", tmp_path, tmp_path / "out")


def test_export_does_not_overwrite_a_foreign_folder(embedded, capsys, tmp_path):
    recipe = embedded.write("export.yaml", run=str(tmp_path / "run"))
    assert cli.main(["train", recipe]) == 0
    capsys.readouterr()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert str(tmp_path / "out") in refused(capsys, "export", tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "good")]) == 0
    before = content(tmp_path / "good")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tra')  # as a killed process leaves it
    message = refused(capsys, "export", tmp_path / "run", tmp_path / "good", "tolerance=1e-30")
    assert "nothing was written" in message
    assert "is unchanged" in message
    assert content(tmp_path / "good") == before
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "good")]) == 0


@pytest.mark.parametrize("shard", ["1", "2/2", "a/b", "-1/2"])
def test_shard_that_is_none(embedded, capsys, shard):
    assert "expected I/N" in refused(capsys, "embed", embedded.write(), f"--shard={shard}")


@pytest.mark.parametrize(("layout", "multiple"), [("packing=64", 24), ("folding=true", 48)])
def test_pieces_that_cannot_be_laid_out(embedded, capsys, tmp_path, layout, multiple):
    recipe = embedded.write("pieces.yaml", run=str(tmp_path / "run"))
    error = refused(capsys, "train", recipe, f"loader.{layout}", "train.microbatches=3")
    assert "a batch of 16 rows does not divide into 24 pieces (devices times train.microbatches)" in error
    assert f"a multiple of {multiple}." in error


def test_packed_rows_on_a_tpu():
    for rows, platform in ((128, "tpu"), (256, "tpu"), (72, "cpu"), (None, "tpu")):
        check_packing(rows, platform)
    with pytest.raises(UserError, match=r"loader\.packing=200: must be a multiple of 128 on TPUs.* Set it to 256\."):
        check_packing(200, "tpu")
