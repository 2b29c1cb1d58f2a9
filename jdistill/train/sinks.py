"""Metric sinks. They receive plain floats: the loop does the only transfer from the device."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from jdistill.config import UserError


class Sink(Protocol):
    """Interface of a metric sink."""

    def start(self, recipe: Mapping[str, Any], step: int) -> None:
        """Start, or resume after `step` updates, dropping what was written for later steps.

        The evaluation of `step` itself is dropped too: it follows the checkpoint, and is repeated on resuming.
        """
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class JsonLines:
    """`metrics.jsonl`: one object per line, `{"step": ..., "time": <seconds since 1970>, name: value, ...}`."""

    def __init__(self, folder: Path):
        self.path = folder / "metrics.jsonl"
        self._file = None

    def start(self, recipe: Mapping[str, Any], step: int) -> None:
        """See Sink."""
        lines = self._lines() if step else []
        kept = [line for line in lines if line["step"] < step or (line["step"] == step and not _evaluated(line))]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        if self._file is None:
            raise ValueError("the sink was not started")
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        self._file.flush()  # so that killing the process loses no line, and checkpoints are never ahead of this file

    def close(self) -> None:
        """See Sink."""
        if self._file is not None:
            self._file.close()

    def _lines(self) -> list[dict[str, Any]]:
        """The complete lines; a process killed while writing may leave half a line at the end."""
        lines = []
        for text in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []:
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

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard", "tensorboardX") from error
        self._folder = folder / "tensorboard"
        self._make = SummaryWriter
        self._writer: Any = None

    def start(self, recipe: Mapping[str, Any], step: int) -> None:
        """See Sink."""
        self._writer = self._make(str(self._folder), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See Sink."""
        if self._writer is not None:
            self._writer.close()


class WandB:
    """A Weights & Biases run in the project `jdistill`; resuming continues the same run."""

    def __init__(self, folder: Path):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise _missing("wandb", "wandb") from error
        self._wandb = wandb
        self._folder = folder
        self._run: Any = None

    def start(self, recipe: Mapping[str, Any], step: int) -> None:
        """See Sink."""
        known = self._folder / "wandb_run_id"
        identity = known.read_text(encoding="utf-8") if step and known.is_file() else None
        self._run = self._wandb.init(
            project="jdistill",
            name=str(recipe.get("name", self._folder.name)),
            config=dict(recipe),
            dir=str(self._folder),
            id=identity,
            resume="allow",
        )
        known.write_text(self._run.id, encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Sink."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See Sink."""
        if self._run is not None:
            self._run.finish()


_OPTIONAL: dict[str, Callable[[Path], Sink]] = {"tensorboard": TensorBoard, "wandb": WandB}


def make_sinks(names: list[Any], folder: Path) -> list[Sink]:
    """The `metrics.jsonl` sink, followed by the named ones.

    Raises:
      UserError: if the package of a named sink is not installed.
    """
    return [JsonLines(folder), *(_OPTIONAL[name](folder) for name in names)]


def _missing(sink: str, package: str) -> UserError:
    return UserError(
        f"train.sinks: '{sink}' needs the package {package}, which is not installed. "
        f"Install it with `pip install 'jdistill[{sink}]'`, or remove the sink; metrics.jsonl is always written."
    )
