"""Metric sinks. They receive plain floats: the loop does the only transfer from the device."""

import importlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jdistill.config import UserError


class Sink(Protocol):
    """Interface of a metric sink, which is open from its construction on.

    A sink of a run that resumes after `step` updates drops what was written for later steps, and the evaluation of
    `step` itself: it follows the checkpoint, and is repeated on resuming.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class JsonLines:
    """`metrics.jsonl`: one object per line, `{"step": ..., "time": <seconds since 1970>, name: value, ...}`."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / "metrics.jsonl"
        lines = _complete_lines(self.path) if step else []
        kept = [line for line in lines if line["step"] < step or (line["step"] == step and not _evaluated(line))]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line; NaN and infinity become null, as JSON has neither."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        self._file.flush()  # so that killing the process loses no line, and checkpoints are never ahead of this file

    def close(self) -> None:
        """Close the file; every line was flushed."""
        self._file.close()


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; a process killed while writing may leave half a line at the end, which is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _evaluated(line: Mapping[str, Any]) -> bool:
    """Whether a line contains an evaluation."""
    return any(name.startswith("evaluate/") for name in line)


class TensorBoard:
    """Event files in `tensorboard/`, written with tensorboardX, which does not need TensorFlow."""

    def __init__(self, folder: Path, step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandB:
    """A Weights & Biases run in the project `jdistill`; resuming continues the same run."""

    def __init__(self, folder: Path, step: int, recipe: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]

        known = folder / "wandb_run_id"
        self._run = wandb.init(
            project="jdistill",
            name=str(recipe.get("name", folder.name)),
            config=dict(recipe),
            dir=str(folder),
            id=known.read_text(encoding="utf-8") if step and known.is_file() else None,
            resume="allow",
        )
        known.write_text(self._run.id, encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log all values at once."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Upload the rest and end the run."""
        self._run.finish()


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check_sinks(names: Sequence[str]) -> None:
    """Check that the named sinks can be opened.

    Raises:
      UserError: if the package of one is not installed.
    """
    for name in names:
        try:
            importlib.import_module(_PACKAGES[name])
        except ImportError as error:
            raise UserError(
                f"train.sinks: '{name}' needs the package {_PACKAGES[name]}, which is not installed. Install it with "
                f"`pip install 'jdistill[{name}]'`, or remove the sink; metrics.jsonl is always written."
            ) from error


def open_sinks(names: Sequence[str], folder: Path, recipe: Mapping[str, Any], step: int) -> list[Sink]:
    """Open the `metrics.jsonl` sink and the named ones, for a run that starts or resumes after `step` updates."""
    sinks: list[Sink] = [JsonLines(folder, step)]
    if "tensorboard" in names:
        sinks.append(TensorBoard(folder, step))
    if "wandb" in names:
        sinks.append(WandB(folder, step, recipe))
    return sinks
