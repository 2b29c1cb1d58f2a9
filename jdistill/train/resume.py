"""Going on with a run: only with the recipe and the rows that it was begun with."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.config import UserError

EVALUATION = ("evaluate", "fidelity")
"""Sections that say what is measured."""

FREE = ("name", "run", "store", "export", "loader.prefetch", "train.log_every", "train.save_every")
FREE += ("train.keep_checkpoints", "train.sinks", "train.microbatches", "train.fsdp", "student.attention")
FREE += ("student.check_tokenizer", *EVALUATION)
"""Settings that may change between two halves of a run: no update depends on them, but for rounding."""

PATHS = re.compile(r"data\.[^.]+\.(path|dataset)|teachers\.[^.]+\.model|student\.(init|tokenizer)|evaluate\..*path")
"""Settings that name files. A project may be moved, so only the last name counts: what lies there is compared by its
content, of data and teachers in the store, and of the student's beginning by the checkpoint."""


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    value: float
    evaluation: dict[str, float]


class Note(NamedTuple):
    """What a checkpoint remembers besides arrays."""

    recipe: dict[str, Any]
    loader: str
    """Fingerprint of the rows and their order."""
    evaluation: dict[str, float] | None
    """The last evaluation."""
    best: Best | None

    def as_json(self) -> dict[str, Any]:
        """A value that JSON can hold."""
        return {**self._asdict(), "best": None if self.best is None else self.best._asdict()}


def read_note(content: Mapping[str, Any]) -> Note:
    """What `Note.as_json` gave."""
    best = content["best"]
    return Note(content["recipe"], content["loader"], content["evaluation"], None if best is None else Best(**best))


def check_same_run(folder: Path, note: Note, recipe: Mapping[str, Any], loader: str, *, step: int) -> None:
    """Refuse to go on with a run under another recipe.

    Raises:
      UserError: naming every setting that differs, with both values.
    """
    differing = differences(note.recipe, recipe)
    if not differing and note.loader == loader:
        return
    what = "; ".join(differing) or "the rows of the store, or their token lengths"
    raise UserError(
        f"run at {folder}: was begun differently and is at step {step}. It differs in: {what}. To resume it, take "
        "back the change; to train from the start, give another `run` folder."
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key.path: then -> now` for every setting that differs and is not free to."""
    before, after = _flat(then), _flat(now)
    paths = [*before, *(path for path in after if path not in before)]
    absent = "absent"
    return [
        f"{path}: {before.get(path, absent)} -> {after.get(path, absent)}"
        for path in paths
        if before.get(path, absent) != after.get(path, absent)
        and not _free(path)
        and not _moved(path, before.get(path), after.get(path))
    ]


def same_evaluation(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two recipes measure the same, so that the best student of one is comparable with those of the other."""
    return all(then.get(section) == now.get(section) for section in EVALUATION)


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Paths to leaves; a mapping without keys is a leaf too, so that its appearing is seen."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and bool(value)
        flat.update(_flat(value, f"{above}{key}.") if nested else {f"{above}{key}": value})
    return flat


def _free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE)


def _moved(path: str, before: Any, after: Any) -> bool:
    """Whether a setting names the same file or folder in another place; two ids of the hub never do."""
    if not (PATHS.fullmatch(path) and isinstance(before, str) and isinstance(after, str)):
        return False
    same = os.path.basename(before.rstrip("/")) == os.path.basename(after.rstrip("/"))
    return same and any(place.startswith(("/", ".")) for place in (before, after))
