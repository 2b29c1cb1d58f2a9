"""Labelled rows from a file to a trained student: 0/1 pairs, classes and relations, without any teacher."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from jdistill import cli
from jdistill.checkpoint import load_student_params
from jdistill.store import Store
from tests.tiny import tiny_bert_folder
from tests.verbs.conftest import Job, sentences

RELATIONS = ("neutral", "entailment", "contradiction")
TEXTS = sentences(64)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("labels")
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["a", "b", "same", "relation"])
        table.writerows([TEXTS[i], TEXTS[i + 32], i % 2, RELATIONS[i % 3]] for i in range(32))
    with (folder / "texts.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text, "topic": i % 4 + 7}) + "\n" for i, text in enumerate(TEXTS))
    tiny_bert_folder(folder / "init", hidden=16, layers=1)
    content = {
        "store": "",
        "run": "",
        "student": {"init": str(folder / "init")},
        "loader": {"shapes": 1},
        "train": {
            "steps": 4,
            "global_batch_size": 16,
            "log_every": 1,
            "save_every": 2,
            "optimizer": {"peak_lr": 1e-3},
        },
    }
    return Job(folder, content)


def sections(job: Job, name: str, file: str, columns: dict, losses: dict) -> dict:
    return {
        "store": str(job.folder / f"{name}-store"),
        "run": str(job.folder / f"{name}-run"),
        "data": {"rows": {"path": str(job.folder / file), "columns": columns}},
        "losses": losses,
    }


PAIRS = {"query": "a", "document": "b", "score": "same", "label": "relation"}


def test_pairs_of_a_csv_with_scores_and_relations(labelled: Job) -> None:
    losses = {
        "near": {"kind": "contrastive"},
        "hard": {"kind": "online_contrastive", "weight": 0.01, "distance": "euclidean"},
        "relation": {"kind": "label_softmax", "classes": 3, "width": 16},
    }
    recipe = labelled.write("pairs.yaml", **sections(labelled, "pairs", "pairs.csv", PAIRS, losses))
    assert cli.main(["embed", recipe]) == 0
    store = Store.open(labelled.folder / "pairs-store")
    assert store.labels == tuple(sorted(RELATIONS))
    assert [store.labels[i] for i in store.rows("train").labels] == [RELATIONS[i % 3] for i in range(32)]
    assert cli.main(["train", recipe]) == 0
    lines = metrics(labelled.folder / "pairs-run")
    assert lines[0]["train/loss/relation"] == pytest.approx(np.log(3), abs=1e-4)
    assert lines[-1]["train/loss/relation"] < lines[0]["train/loss/relation"]
    assert all(line["train/loss/near"] > 0 for line in lines)
    assert load_student_params(labelled.folder / "pairs-run")


def test_texts_of_a_jsonl_with_classes(labelled: Job) -> None:
    losses = {
        mining: {"kind": "batch_triplet", "mining": mining, "distance": "cosine", "margin": 0.3}
        for mining in ("hard", "semi_hard", "all")
    }
    columns = {"text": "text", "label": "topic"}
    recipe = labelled.write("texts.yaml", **sections(labelled, "texts", "texts.jsonl", columns, losses))
    assert cli.main(["embed", recipe]) == 0
    assert Store.open(labelled.folder / "texts-store").labels == ("7", "8", "9", "10")
    assert cli.main(["train", recipe, "train.microbatches=2"]) == 0
    assert all(line[f"train/loss/{mining}"] > 0 for line in metrics(labelled.folder / "texts-run") for mining in losses)


@pytest.mark.parametrize(
    ("columns", "loss", "message"),
    [
        (PAIRS, {"kind": "label_softmax", "classes": 2, "width": 16}, "losses.x: classes is 2, but .* 3 labels"),
        (PAIRS, {"kind": "label_softmax", "classes": 3, "width": 8}, "width is 8, but .* 16 elements. Set it to 16"),
        ({"text": "a"}, {"kind": "batch_triplet"}, "losses.x: batch_triplet learns from the class of each row"),
        ({"text": "a", "label": "b"}, {"kind": "batch_triplet"}, "losses.x: no label occurs twice"),
    ],
)
def test_labels_that_do_not_fit_the_loss_are_refused(labelled, tmp_path, capsys, columns, loss, message) -> None:
    given = sections(labelled, "x", "pairs.csv", columns, {"x": loss})
    recipe = labelled.write("refused.yaml", **{**given, "store": str(tmp_path / "s"), "run": str(tmp_path / "r")})
    assert cli.main(["embed", recipe]) == 0
    assert cli.main(["train", recipe]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/loss" in line]
