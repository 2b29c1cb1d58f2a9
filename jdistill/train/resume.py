"""Resuming a run, which requires the same recipe and rows."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.config import UserError
from jdistill.train.stopping import Patience

EVALUATION = ("evaluate", "fidelity")
"""Sections that configure evaluation."""

RESUMABLE_SETTINGS = ("name", "run", "store", "export", "loader.prefetch", "train.log_every", "train.save_every")
RESUMABLE_SETTINGS += ("train.keep_checkpoints", "train.sinks", "train.microbatches", "train.fsdp", "student.attention")
RESUMABLE_SETTINGS += ("student.check_tokenizer", *EVALUATION)
"""Settings that may change when resuming: updates do not depend on them, except for rounding."""

PATHS = re.compile(r"data\.[^.]+\.(path|dataset)|teachers\.[^.]+\.model|student\.(init|tokenizer)|evaluate\..*path")
"""Settings that name files. Projects may be moved, so only the last path component is compared. Contents are verified
elsewhere: data and teachers by the store, the initial student by the checkpoint."""


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    value: float
    evaluation: dict[str, float]


class CheckpointMetadata(NamedTuple):
    """Checkpoint metadata."""

    recipe: dict[str, Any]
    loader: str
    """Fingerprint of the rows and their order."""
    evaluation: dict[str, float] | None
    """The last evaluation."""
    best: Best | None
    waiting: Patience | None = None
    """What early stopping has seen."""

    def as_json(self) -> dict[str, Any]:
        """A JSON-serializable value."""
        parts = {"best": self.best, "waiting": self.waiting}
        return self._asdict() | {name: None if part is None else part._asdict() for name, part in parts.items()}


def read_note(content: Mapping[str, Any]) -> CheckpointMetadata:
    """Inverse of `Note.as_json`."""
    best, waiting = content["best"], content.get("waiting")
    return CheckpointMetadata(
        content["recipe"],
        content["loader"],
        content["evaluation"],
        None if best is None else Best(**best),
        None if waiting is None else Patience(**waiting),
    )


def check_same_run(
    folder: Path, note: CheckpointMetadata, recipe: Mapping[str, Any], loader: str, *, step: int
) -> None:
    """Refuse to resume a run with another recipe or other rows.

    Raises:
      UserError: naming every setting that differs, with both values.
    """
    differing = differences(note.recipe, recipe)
    if not differing and note.loader == loader:
        return
    what = "; ".join(differing) or "the rows of the store, or their token lengths"
    raise UserError(
        f"run at {folder}: was started with other settings and is at step {step}. Differences: {what}. To resume, "
        "revert the change; to train from the start, choose another `run` folder."
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key.path: then -> now` for every setting that differs and must not."""
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
    """Whether two recipes have the same evaluation, so that their best metrics are comparable."""
    return all(then.get(section) == now.get(section) for section in EVALUATION)


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Paths to leaves; an empty mapping counts as a leaf, so that adding one is noticed."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and bool(value)
        flat.update(_flat(value, f"{above}{key}.") if nested else {f"{above}{key}": value})
    return flat


def _free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in RESUMABLE_SETTINGS)


def _moved(path: str, before: Any, after: Any) -> bool:
    """Whether two paths could be the same file or folder after a move; hub ids cannot."""
    if not (PATHS.fullmatch(path) and isinstance(before, str) and isinstance(after, str)):
        return False
    same = os.path.basename(before.rstrip("/")) == os.path.basename(after.rstrip("/"))
    return same and any(place.startswith(("/", ".")) for place in (before, after))
