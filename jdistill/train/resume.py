"""Resuming a run, which requires the same recipe and rows."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdistill.config import UserError

EVALUATION = ("evaluate", "fidelity")
"""Sections that configure evaluation."""

RESUMABLE_SETTINGS = ("name", "run", "store", "export", "loader.prefetch", "train.log_every", "train.save_every")
RESUMABLE_SETTINGS += ("train.keep_checkpoints", "train.sinks", "train.microbatches", "train.fsdp", "student.attention")
RESUMABLE_SETTINGS += ("student.check_tokenizer", *EVALUATION)
"""Settings that may change when resuming: updates do not depend on them, except for rounding."""

PATHS = re.compile(
    r"data\.[^.]+\.(path|dataset)|teachers\.[^.]+\.model|student\.(init|tokenizer)|prune\.(init|output)|evaluate\..*path"
)
"""Settings that name files. Projects may be moved, so only the last path component is compared. Contents are verified
elsewhere: data and teachers by the store, the initial student by the checkpoint."""


def check_same_run(
    folder: Path, stored: Mapping[str, Any], recipe: Mapping[str, Any], loader: str, *, step: int
) -> None:
    """Refuse to resume a run with another recipe or other rows.

    Args:
      folder: the run folder, for the message.
      stored: metadata of its checkpoint, with `recipe` and `loader`.
      recipe: the recipe to resume with.
      loader: fingerprint of the rows and their order to resume with.
      step: step of the checkpoint.

    Raises:
      UserError: naming every setting that differs, with both values.
    """
    differing = differences(stored["recipe"], recipe)
    if not differing and stored["loader"] == loader:
        return
    what = "; ".join(differing) or "the rows of the store, or their token lengths"
    raise UserError(
        f"run at {folder}: was started with other settings and is at step {step}. Differences: {what}. To resume, "
        "revert the change; to train from the start, choose another `run` folder."
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key.path: then -> now` for every setting that differs and must not.

    An absent setting equals null: options that were added later are null in runs that do not use them.
    """
    before, after = _flat(then), _flat(now)
    paths = [*before, *(path for path in after if path not in before)]
    averages = after.get("train.average_checkpoints.last") is not None  # of the steps that save_every determines
    absent = "absent"
    return [
        f"{path}: {before.get(path, absent)} -> {after.get(path, absent)}"
        for path in paths
        if before.get(path) != after.get(path)
        and (not _free(path) or (averages and path == "train.save_every"))
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
