"""Recipes, data files and model folders to damage, each with the command that a user would run on it."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.fuzz.mutate import damage_bytes, damage_table, damage_tree, damage_weights
from tests.tiny import SENTENCES, tiny_bert_folder, tiny_static_folder

Commands = Sequence[Sequence[str]]

TEXTS = [f"{text} {i}" for i, text in enumerate(SENTENCES)]
ROWS = [
    {"id": f"00{i}", "q": a, "d": b, "score": i / 7}
    for i, (a, b) in enumerate(zip(TEXTS, reversed(TEXTS), strict=True))
]


def write_template(folder: Path) -> None:
    """Everything whole: two model folders, data in five formats and a recipe, with paths relative to `folder`."""
    tiny_bert_folder(folder / "bert", hidden=16, layers=1, prompts={"query": "query: "})
    tiny_static_folder(folder / "static")
    for name in DATA_FILES:
        write_rows(folder / name, ROWS)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(), sort_keys=False))


def recipe(**changes: Any) -> dict[str, Any]:
    """A small recipe that uses most sections."""
    return {
        "name": "tiny",
        "seed": 3,
        "store": "store",
        "run": "run",
        "data": {
            "pairs": {"path": "rows.csv", "columns": {"query": "q", "document": "d"}, "limit": 6, "empty": "drop"}
        },
        "teachers": {"big": {"model": "bert", "dtype": "float32", "shard_rows": 16, "prompts": {"query": "q: "}}},
        "student": {"init": "static", "projection": "linear"},
        "losses": {
            "align": {"kind": "embed_cosine"},
            "contrast": {"kind": "info_nce", "weight": 0.1, "temperature": 0.05},
        },
        "loader": {"shapes": 1},
        "train": {"steps": 2, "global_batch_size": 4, "optimizer": {"peak_lr": 1e-3, "groups": []}},
        "evaluate": {
            "sts": {"kind": "sts", "path": "rows.jsonl", "sentence1": "q", "sentence2": "d", "score": "score"}
        },
        **changes,
    }


DATA_FILES = ("rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The same rows in the format that the file's name says."""
    table = pa.Table.from_pylist(list(rows))
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        comma = "," if path.suffix == ".csv" else "\t"
        lines = [comma.join(rows[0]), *(comma.join(_cell(value, comma) for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")


def _cell(value: Any, comma: str) -> str:
    return f'"{value}"' if comma in str(value) and comma == "," else str(value)


def damaged_recipe(rng: random.Random, folder: Path) -> Commands:
    """recipe.yaml with a damaged value, key or byte; or a damaged override of a whole one."""
    path = folder / "recipe.yaml"
    kind = rng.randrange(5)
    if kind == 0:
        key = rng.choice(
            ("seed", "train.steps", "losses.align", "data.pairs.limit", "student.init", "a.b", "", ".", "run")
        )
        value = damage_bytes(rng, b"[1, {a: 2}]").decode("utf-8", "surrogateescape").replace("\0", "")
        return [["show", "recipe.yaml", f"{key}={value}"]]
    if kind < 3:
        path.write_text(yaml.safe_dump(damage_tree(rng, recipe()), sort_keys=False, allow_unicode=True))
    else:
        path.write_bytes(damage_bytes(rng, path.read_bytes()))
    return [["show", "recipe.yaml"], *([["embed", "recipe.yaml", "teachers={}"]] * rng.choice((0, 0, 1)))]


def damaged_data(rng: random.Random, folder: Path) -> Commands:
    """A damaged data file, read as texts to train on or as an evaluation."""
    path = folder / rng.choice(DATA_FILES)
    if path.suffix == ".parquet" and rng.random() < 0.7:
        pq.write_table(damage_table(rng, pq.read_table(path)), path)
    elif path.suffix == ".jsonl" and rng.random() < 0.5:
        rows = [row if rng.random() < 0.6 else damage_tree(rng, row) for row in ROWS]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_bytes(damage_bytes(rng, path.read_bytes()))
    columns = rng.choice(
        ({"query": "q", "document": "d"}, {"text": "d"}, {"query": "q", "document": "d", "score": "score"})
    )
    empty = rng.choice(("error", "drop"))
    data = {"pairs": {"path": path.name, "columns": columns, "empty": empty}}
    evaluate = {"sts": {"kind": "sts", "path": path.name, "sentence1": "q", "sentence2": "d", "score": "score"}}
    losses = {"contrast": {"kind": "info_nce"}}
    changed = recipe(data=data, evaluate=evaluate, teachers={}, losses=losses)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(changed))
    if rng.random() < 0.25:
        return [["evaluate", "static", "--config", "recipe.yaml"]]
    return [["embed", "recipe.yaml"]]


def damaged_folder(rng: random.Random, folder: Path) -> Commands:
    """A model folder with one file damaged or missing, loaded as a student or run as a teacher."""
    model = folder / rng.choice(("bert", "bert", "static"))
    files = sorted(path for path in model.rglob("*") if path.is_file())
    path = rng.choice(files)
    if rng.random() < 0.1:
        path.unlink()
    elif path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(json.dumps(damage_tree(rng, json.loads(path.read_text()))))
    elif path.suffix == ".safetensors":
        path.write_bytes(damage_weights(rng, path.read_bytes()))
    else:
        path.write_bytes(damage_bytes(rng, path.read_bytes()))
    if rng.random() < 0.3:
        changed = recipe(teachers={"big": {"model": model.name, "dtype": "float32"}})
        (folder / "recipe.yaml").write_text(yaml.safe_dump(changed))
        return [["embed", "recipe.yaml"]]
    return [["evaluate", model.name, "--config", "recipe.yaml"]]


KINDS = {"yaml": damaged_recipe, "data": damaged_data, "folder": damaged_folder}
