"""What is found before the first step, and by `show --check`: exit code 2, one paragraph, and no step done."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jdistill import cli
from jdistill.config import UserError
from jdistill.verbs.before_training import _check_writable
from tests.tiny import tiny_bert_folder, write_tokenizer
from tests.verbs.conftest import Job


def both_refuse(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], **sections: Any) -> str:
    """The paragraph that `train` and `show --check` are refused with; nothing is trained or evaluated."""
    run = tmp_path / "run"
    recipe = job.write(f"{tmp_path.name}.yaml", run=str(run), **sections)
    refusals = []
    for arguments in (["train", recipe], ["show", "--check", recipe]):
        capsys.readouterr()
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err.strip()
        refusals.append(message[message.rindex("error: ") :])
    assert refusals[0] == refusals[1]
    assert "\n\n" not in refusals[0]
    assert not (run / "checkpoints").exists()
    return refusals[0]


def late(job: Job, **changes: Any) -> dict[str, Any]:
    """A training that evaluates nothing until its last step."""
    return {**job.content["train"], "evaluate_at_start": False, "evaluate_every": None, **changes}


def test_what_trains_is_summed_up(embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = embedded.write("right.yaml", run=str(run))
    capsys.readouterr()
    assert cli.main(["show", "--check", recipe]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny: no errors found")
    assert "evaluations: sts, fidelity_big" in out
    assert not run.exists()


def test_without_a_store_what_needs_none_is_checked(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = job.write()
    keep = "train.keep_best.metric="
    assert cli.main(["show", "--check", recipe, keep + "fidelity_big/overlap@10"]) == 0
    assert "create it with jdistill embed" in capsys.readouterr().out
    assert cli.main(["show", "--check", recipe, keep + "fidelity_big/overlap@11"]) == 2
    assert "no 'fidelity_big/overlap@11'" in capsys.readouterr().err
    assert not Path(job.content["store"]).exists()


@pytest.mark.parametrize("metric", ["sts/spearman", "nope", "fidelity_big/spearmann"])
def test_unknown_metric(embedded: Job, metric: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = both_refuse(embedded, tmp_path, capsys, train=late(embedded, keep_best={"metric": metric}))
    assert f"train.keep_best.metric: evaluation reports no '{metric}'" in message
    assert "sts/spearman_cosine" in message
    assert "fidelity_big/cosine" in message


@pytest.mark.parametrize(
    ("rows", "expected_text"),
    [
        ([{"sentence1": "a", "sentence2": "b", "scoore": 1}], "scoore"),
        ([{"sentence1": "a", "sentence2": None, "score": 1}], "row 1, column 'sentence2'"),
        (None, "no such file"),
    ],
    ids=["column", "text", "file"],
)
def test_evaluation_files(
    embedded: Job, rows: Any, expected_text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "sts.jsonl"
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate = {"sts": {"kind": "sts", "path": str(path)}}
    message = both_refuse(embedded, tmp_path, capsys, evaluate=evaluate, train=late(embedded))
    assert expected_text in message
    assert "sts.jsonl" in message


def test_half_an_emoji_in_an_evaluation_file(embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "sts.jsonl"
    lines = [{"sentence1": "a", "sentence2": "b", "score": 1}, {"sentence1": "a \ud83d", "sentence2": "b", "score": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = both_refuse(embedded, tmp_path, capsys, evaluate={"sts": {"kind": "sts", "path": str(path)}})
    assert "sts.jsonl" in message
    assert "row 2" in message


@pytest.mark.parametrize("include", [True, False])
def test_prompt_without_room_for_text(
    embedded: Job, include: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    student = {**embedded.content["student"], "max_length": 8, "include_prompt": include}
    student["prompts"] = {"query": "the cat the cat the cat "}
    message = both_refuse(embedded, tmp_path, capsys, student=student)
    assert "student.prompts.query: the prompt takes 8 tokens" in message
    assert "max_length above 8" in message


@pytest.mark.parametrize("name", ["query", "passage"])
def test_inherited_prompt_without_room_for_text(
    embedded: Job, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    init = tiny_bert_folder(tmp_path / "init", prompts={name: "the cat the cat the cat "})
    student = {**embedded.content["student"], "init": str(init), "max_length": 8}
    message = both_refuse(embedded, tmp_path, capsys, student=student)
    side = "query" if name == "query" else "document"
    assert f"student.prompts.{side}: the prompt of {init}, 'the cat the cat the cat ', takes 8 tokens" in message
    assert "'' for none" in message


def test_prompt_without_room_in_the_length_of_the_tokenizer(
    embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A student at random cuts texts where its tokenizer's folder says."""
    write_tokenizer(tmp_path, max_length=8)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    student = {"encoder": {"kind": "bert", **sizes}, "tokenizer": str(tmp_path)}
    student["prompts"] = {"query": "the cat the cat the cat "}
    message = both_refuse(embedded, tmp_path, capsys, student=student)
    assert (
        "the prompt takes 8 tokens, special tokens included, which leaves no room for text within student.max_length 8"
        in message
    )


def test_package_of_a_sink(
    embedded: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    message = both_refuse(embedded, tmp_path, capsys, train=late(embedded, sinks=["tensorboard"]))
    assert "pip install 'jdistill[tensorboard]'" in message


def test_too_few_heldout_texts(embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = both_refuse(embedded, tmp_path, capsys, fidelity={"limit": 2})
    assert "fidelity: 2 different held-out texts" in message


def test_export_to_a_projection_that_there_is_not(
    embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "export.projection" in both_refuse(embedded, tmp_path, capsys, export={"projection": "dense"})


@pytest.mark.parametrize(
    ("sections", "expected_text"),
    [
        ({"losses": {"k": {"kind": "score_kl", "candidates": "own"}}}, "these rows have one each"),
        ({"losses": {"k": {"kind": "cosent"}}}, "cosent learns from a score of each pair, but these rows have none"),
        ({"losses": {"k": {"kind": "score_margin_mse"}}}, "compares a document with hard negatives"),
        ({"losses": {"k": {"kind": "batch_triplet"}}}, "losses.k: batch_triplet learns from the class of each row"),
        ({"losses": {"k": {"kind": "matryoshka", "dims": [64], "loss": {"kind": "info_nce"}}}}, "dims has 64"),
        ({"train": {"global_batch_size": 64}}, "train.global_batch_size=64: the store has only 48 rows"),
        ({"train": {"global_batch_size": 10**15}}, "the store has only 48 rows"),
    ],
)
def test_terms_and_batches_that_do_not_fit_the_data(
    embedded: Job, sections: dict[str, Any], expected_text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also before the evaluation of the untrained student."""
    train = {**embedded.content["train"], **sections.get("train", {})}
    assert expected_text in both_refuse(embedded, tmp_path, capsys, **{**sections, "train": train})
    assert not (tmp_path / "run").exists()


def test_pieces_that_do_not_divide_the_batch(embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = embedded.write("pieces.yaml", run=str(tmp_path / "run"))
    for verb, devices in ((["train"], 8), (["show", "--check"], 1)):
        capsys.readouterr()
        assert cli.main([*verb, recipe, "train.microbatches=3"]) == 2
        expected = (
            f"3 microbatches on {devices} devices do not divide a global batch of 16 rows. .* multiple of {3 * devices}"
        )
        assert re.search(expected, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_one_column_for_two_things(embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    evaluate = {"sts": {**embedded.content["evaluate"]["sts"], "sentence1": "score"}}
    message = both_refuse(embedded, tmp_path, capsys, evaluate=evaluate)
    assert "evaluate.sts: 'sentence1' and 'score' are both the column 'score'" in message


@pytest.mark.parametrize("content", [None, b"", b"junk", "short"])
def test_a_damaged_shard(
    embedded: Job, content: bytes | str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = shutil.copytree(embedded.folder / "store", tmp_path / "store")
    shard = store / "teachers" / "big" / "shards" / "00002.npy"
    whole = shard.read_bytes()
    shard.unlink()
    if content is not None:
        shard.write_bytes(whole[:-8] if isinstance(content, str) else content)
    message = both_refuse(embedded, tmp_path, capsys, store=str(store))
    assert f"{shard}: is missing or damaged. Restore it from a copy, or move {store}/teachers/big aside" in message
    shutil.move(store / "teachers" / "big", tmp_path / "aside")  # as the message says
    assert cli.main(["embed", embedded.write("again.yaml", store=str(store))]) == 0
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"description": {}}'])
@pytest.mark.parametrize("of", ["", "teachers/big/"])
def test_a_damaged_manifest(
    embedded: Job, of: str, content: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = shutil.copytree(embedded.folder / "store", tmp_path / "store")
    (store / of / "manifest.json").write_text(content)
    message = both_refuse(embedded, tmp_path, capsys, store=str(store))
    assert f"{store / of}/manifest.json: ".replace("//", "/") in message
    assert f"or move {store / of} aside" in message


def test_name_of_an_evaluation_that_fidelity_takes(
    embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluate = {"fidelity_big": embedded.content["evaluate"]["sts"]}
    message = both_refuse(embedded, tmp_path, capsys, evaluate=evaluate)
    assert "evaluate.fidelity_big: this name is reserved for the comparison" in message


def test_run_folder_that_is_a_file(embedded: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    assert "is a file" in both_refuse(embedded, tmp_path, capsys)


def test_folder_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser may write anywhere
    with pytest.raises(UserError, match="not writable"):
        _check_writable(str(tmp_path / "a" / "b"))


def test_an_evaluation_that_breaks_later_can_be_repaired(embedded: Job, tmp_path: Path) -> None:
    """The evaluation of a run that was begun may be changed, since no step depends on it."""
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0.0, 1.0]}), other)
    recipe = embedded.write("long.yaml", run=str(tmp_path / "run"), train=late(embedded, steps=2))
    assert cli.main(["train", recipe]) == 0
    changed = embedded.write(
        "changed.yaml",
        run=str(tmp_path / "run"),
        train=late(embedded, steps=2),
        evaluate={"other": {"kind": "sts", "path": str(other)}},
    )
    assert cli.main(["train", changed]) == 0
