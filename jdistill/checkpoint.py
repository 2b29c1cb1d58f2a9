"""The files of a run: orbax checkpoints, the resolved recipe, and result.json, which names the resulting student.

Checkpoints are written in the background and published by an atomic rename, so a process killed at any moment leaves
the last complete one. The student's weights are a separate item and can be read without the optimizer state.
"""

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree
from orbax.checkpoint import checkpoint_managers

from jdistill.config import UserError, load_yaml

_METADATA = "note"
"""Name of the metadata's item in a checkpoint."""

_AVERAGE = "average"
"""Folder of the average of checkpoints in a run's folder."""


class Checkpoints:
    """Reads and writes the checkpoints of one run during training.

    Args:
      folder: the run folder; checkpoints are stored in its `checkpoints/<step>`.
      keep: number of latest checkpoints to keep, in addition to those that `save` names.
    """

    def __init__(self, folder: str | Path, *, keep: int):
        _quiet_orbax()
        self._keep = _Keep(keep)
        self._manager = ocp.CheckpointManager(
            _folder(folder),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._keep,
                # Save in every call. orbax's default policy would look for preemptions, too, which preemption.py does.
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """Step of the latest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(
        self, step: int, parts: Mapping[str, PyTree[Array]], metadata: Mapping[str, Any], *, keep: Collection[int] = ()
    ) -> None:
        """Copy the arrays off the devices and write them in the background.

        Args:
          step: updates done.
          parts: name -> arrays; `load_student_params` returns those of `"student"`.
          metadata: JSON values.
          keep: steps whose checkpoints are kept regardless of age.
        """
        # Set first: the call of save below asks the policy which older checkpoints go.
        self._keep.steps = frozenset(keep)
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in _own(dict(parts)).items()}
        self._manager.save(step, args=ocp.args.Composite(**arrays, **{_METADATA: ocp.args.JsonSave(dict(metadata))}))

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata that `save` was given with a checkpoint."""
        args = ocp.args.Composite(**{_METADATA: ocp.args.JsonRestore()})
        return dict(self._manager.restore(step, args=args)[_METADATA])

    def restore(self, step: int, like: Mapping[str, PyTree[Array]]) -> dict[str, PyTree[Array]]:
        """The arrays of a checkpoint with the shardings of `like`, whatever its number of devices."""
        forms = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dict(like))
        arrays = {name: ocp.args.StandardRestore(tree) for name, tree in forms.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arrays))
        return {name: restored[name] for name in like}

    def wait(self) -> None:
        """Block until all saved checkpoints are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for pending writes, then stop the background threads."""
        self._manager.close()


def _own(parts: dict[str, PyTree[Array]]) -> dict[str, PyTree[Array]]:
    """Copies that no training step overwrites while they are being written.

    On CPUs, fetching an array from the device does not copy it, so a training step that donates its buffer would have
    to wait until the checkpoint is on disk.
    """
    return jax.tree.map(jnp.copy, parts) if jax.default_backend() == "cpu" else parts


class _Keep(checkpoint_managers.PreservationPolicy):
    """Keeps the latest few checkpoints and those of some steps."""

    def __init__(self, latest: int):
        self._latest = latest
        self.steps: frozenset[int] = frozenset()

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        from_end = range(len(checkpoints) - 1, -1, -1)
        return [
            age < self._latest or checkpoint.step in self.steps
            for age, checkpoint in zip(from_end, checkpoints, strict=True)
        ]


def load_student_params(run: str | Path) -> PyTree[Array]:
    """The parameters of a run's student, float32, on the default device.

    For a finished run, those of its best step with `keep_best`, the average with `average_checkpoints`, otherwise those
    of its last step; for an unfinished run, those of the last complete checkpoint.

    Raises:
      UserError: if the folder has no complete checkpoint.
    """
    steps = complete_steps(run)
    if not steps:
        raise UserError(f"{run}: has no complete checkpoint. Train it first with `jdistill train`.")
    result = load_result(run)
    if result is not None and "averaged_steps" in result:
        if not _average(run).is_dir():
            raise UserError(
                f"{run}: result.json names an average of checkpoints, but the folder {_AVERAGE} is missing. Move "
                "result.json aside and rerun `jdistill train`, which averages them again."
            )
        return _load_item(_average(run))
    step = steps[-1] if result is None else _result_step(result)
    if step not in steps:
        raise UserError(
            f"{run}: result.json names step {step}, but its checkpoint is missing. Move result.json aside and rerun "
            f"`jdistill train`, which resumes from step {steps[-1]}."
        )
    return _load_item(_folder(run) / str(step) / "student")


def save_average(run: str | Path, params: PyTree[Array]) -> None:
    """Write the average of a run's checkpoints for `load_student_params`; all processes must call it."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(_average(run), params, force=True)


def complete_steps(run: str | Path) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending."""
    # While a checkpoint is being written, its name has a suffix; it gets its number alone when it is complete.
    folder = _folder(run)
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def load_result(run: str | Path) -> dict[str, Any] | None:
    """The content of result.json; None while the run is unfinished.

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
            f"{path}: is damaged. Restore it from a copy; or move it aside and rerun `jdistill train`, which resumes "
            "from the last checkpoint."
        )
    return result


def _result_step(result: Mapping[str, Any]) -> int:
    return result["step"] if result["best_step"] is None else result["best_step"]


def save_result(run: str | Path, result: Mapping[str, Any]) -> None:
    """Write result.json by renaming a complete file, so that nobody reads half of one."""
    path = Path(run) / "result.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(dict(result), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def resolved_recipe(run: str | Path) -> dict[str, Any]:
    """The recipe a run was trained with, defaults included.

    Raises:
      UserError: if `run` is not a run folder.
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run}: is not a run folder: it has no config.yaml. Pass the `run` folder of a recipe.")
    return load_yaml(path)


def _folder(run: str | Path) -> Path:
    return Path(run).absolute() / "checkpoints"


def _average(run: str | Path) -> Path:
    return Path(run).absolute() / _AVERAGE


def _quiet_orbax() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs verbosely to it


def _load_item(path: Path) -> PyTree[Array]:
    _quiet_orbax()
    with ocp.PyTreeCheckpointer() as checkpointer:
        forms = checkpointer.metadata(path).item_metadata.tree
        # As NumPy arrays, since the stored shardings name devices of the training, which this process may not have.
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), forms)
        restored = checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))
    return jax.tree.map(jnp.asarray, restored)
