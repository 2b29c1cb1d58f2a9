"""What a run leaves on disk: checkpoints by orbax, the resolved recipe, and which step's student is the result.

A checkpoint is written in the background and becomes visible by one rename, so a process killed at any moment leaves
the last complete one. The student's weights are an item of their own: reading a student does not read the optimizer.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree
from orbax.checkpoint import checkpoint_managers

from jdistill.config import UserError, load_yaml

_NOTE = "note"


class Checkpoints:
    """The checkpoints of one run, written by whoever trains it.

    Args:
      folder: the run's folder; checkpoints lie in `checkpoints/<step>` below it.
      keep: how many of the latest stay on disk. The one of step `best`, if set, stays too.
    """

    def __init__(self, folder: str | Path, *, keep: int):
        _quiet_orbax()
        self._keep = _Keep(keep)
        self._manager = ocp.CheckpointManager(
            _folder(folder),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._keep,
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """Step of the latest complete checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, parts: Mapping[str, PyTree[Array]], note: Mapping[str, Any], *, best: int | None) -> None:
        """Copy the arrays off the devices and return; they are written in the background.

        Args:
          step: updates done.
          parts: name -> arrays; `"student"` holds what `load_student_params` returns.
          note: JSON beside the arrays.
          best: step whose checkpoint must stay, however old.
        """
        self._keep.best = best
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in _own(dict(parts)).items()}
        self._manager.save(step, args=ocp.args.Composite(**arrays, **{_NOTE: ocp.args.JsonSave(dict(note))}))

    def note(self, step: int) -> dict[str, Any]:
        """The JSON of a checkpoint."""
        args = ocp.args.Composite(**{_NOTE: ocp.args.JsonRestore()})
        return dict(self._manager.restore(step, args=args)[_NOTE])

    def restore(self, step: int, like: Mapping[str, PyTree[Array]]) -> dict[str, PyTree[Array]]:
        """The arrays of a checkpoint, placed as those of `like` are, on however many devices that is."""
        forms = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(like))
        arrays = {name: ocp.args.StandardRestore(tree) for name, tree in forms.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arrays))
        return {name: restored[name] for name in like}

    def wait(self) -> None:
        """Until everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then end the background threads."""
        self._manager.close()


def _own(parts: dict[str, PyTree[Array]]) -> dict[str, PyTree[Array]]:
    """Arrays that nobody else will want to overwrite while they are being written.

    On a CPU, taking an array off the device copies nothing: a training step that reuses its memory would have to wait
    until the whole checkpoint is on disk.
    """
    return jax.tree.map(jnp.copy, parts) if jax.default_backend() == "cpu" else parts


class _Keep(checkpoint_managers.PreservationPolicy):
    """The latest few checkpoints and the best one."""

    def __init__(self, latest: int):
        self._latest = latest
        self.best: int | None = None

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        from_end = range(len(checkpoints) - 1, -1, -1)
        return [
            age < self._latest or checkpoint.step == self.best
            for age, checkpoint in zip(from_end, checkpoints, strict=True)
        ]


def load_student_params(run: str | Path) -> PyTree[Array]:
    """The parameters of a run's student, float32, on the default device.

    Of a finished run those of its best step, or of its last where it chose no best; of one that is not finished those
    of the last complete checkpoint.

    Raises:
      UserError: if the folder holds no complete checkpoint.
    """
    steps = complete_steps(run)
    if not steps:
        raise UserError(f"{run}: holds no complete checkpoint. Train it first with `jdistill train`.")
    result = load_result(run)
    step = steps[-1] if result is None else _result_step(result)
    if step not in steps:
        raise UserError(
            f"{run}: result.json names step {step}, but its checkpoint is gone. Move result.json aside and train "
            "again: "
            f"it goes on from step {steps[-1]}."
        )
    return _load_item(_folder(run) / str(step) / "student")


def complete_steps(run: str | Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    folder = _folder(run)
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def load_result(run: str | Path) -> dict[str, Any] | None:
    """What result.json holds; None while the run is not finished.

    Raises:
      UserError: if the file is damaged.
    """
    path = Path(run) / "result.json"
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_bytes())
    except ValueError:
        result = None
    if not isinstance(result, dict) or not {"step", "best_step", "evaluation"} <= result.keys():
        raise UserError(
            f"{path}: is damaged, expected what a finished run wrote. Restore it from a copy; or move it aside and "
            "train again, which goes on from the last checkpoint."
        )
    return result


def _result_step(result: Mapping[str, Any]) -> int:
    return result["step"] if result["best_step"] is None else result["best_step"]


def save_result(run: str | Path, result: Mapping[str, Any]) -> None:
    """Write result.json, whole or not at all."""
    path = Path(run) / "result.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(dict(result), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def resolved_recipe(run: str | Path) -> dict[str, Any]:
    """The recipe a run was trained with, every default filled in.

    Raises:
      UserError: if the folder is not that of a run.
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run}: is not the folder of a run, it has no config.yaml. Give the `run` folder of a recipe.")
    return load_yaml(path)


def _folder(run: str | Path) -> Path:
    return Path(run).absolute() / "checkpoints"


def _quiet_orbax() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells its inner life there


def _load_item(path: Path) -> PyTree[Array]:
    _quiet_orbax()
    with ocp.PyTreeCheckpointer() as checkpointer:
        forms = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), forms)
        restored = checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))
    return jax.tree.map(jnp.asarray, restored)
