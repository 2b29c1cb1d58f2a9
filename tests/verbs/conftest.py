"""A whole small job on disk: texts, a tiny random teacher and a recipe; everything a verb needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.tiny import WORDS, tiny_bert_folder


@dataclass(frozen=True)
class Job:
    """A folder with a recipe; `write` changes the recipe on disk and gives its path."""

    folder: Path
    content: dict[str, Any]

    def write(self, name: str = "recipe.yaml", **sections: Any) -> str:
        path = self.folder / name
        path.write_text(yaml.safe_dump({**self.content, **sections}, sort_keys=False))
        return str(path)


def sentences(count: int) -> list[str]:
    """Different short texts, 3 to 12 words each."""
    return [" ".join(WORDS[(i * 7 + j * (1 + i % 5)) % 40] for j in range(3 + i % 10)) + f" {i}" for i in range(count)]


def make_job(folder: Path) -> Job:
    texts = sentences(120)
    pq.write_table(pa.table({"q": texts[:48], "d": texts[48:96]}), folder / "pairs.parquet")
    pq.write_table(pa.table({"q": texts[96:108], "d": texts[108:]}), folder / "heldout.parquet")
    scores = [float(i % 6) for i in range(12)]
    pq.write_table(
        pa.table({"sentence1": texts[96:108], "sentence2": texts[108:], "score": scores}), folder / "sts.parquet"
    )
    teacher = tiny_bert_folder(folder / "teacher", hidden=32, layers=3)
    columns = {"query": "q", "document": "d"}
    content = {
        "name": "tiny",
        "store": str(folder / "store"),
        "run": str(folder / "run"),
        "data": {
            "pairs": {"path": str(folder / "pairs.parquet"), "columns": columns},
            "heldout": {"path": str(folder / "heldout.parquet"), "columns": columns, "role": "heldout"},
        },
        "teachers": {"big": {"model": str(teacher), "shard_rows": 16}},
        "student": {"init": str(teacher), "keep_layers": [2]},
        "losses": {"align": {"kind": "embed_cosine"}, "contrast": {"kind": "info_nce", "weight": 0.1}},
        "loader": {"shapes": 1},
        "train": {
            "steps": 4,
            "global_batch_size": 16,
            "log_every": 1,
            "evaluate_every": 2,
            "save_every": 2,
            "optimizer": {"peak_lr": 1e-3},
        },
        "evaluate": {"sts": {"kind": "sts", "path": str(folder / "sts.parquet")}},
    }
    return Job(folder, content)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job whose store is made; tests that use it only add runs."""
    from jdistill.verbs import embed, load_recipe

    job = make_job(tmp_path_factory.mktemp("job"))
    embed(load_recipe(job.write()))
    return job
