"""What a run saves, and how it resumes: state, evaluations and recipe in every checkpoint, result.json at the end."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, PyTree

from jdistill.checkpoint import (
    Checkpoints,
    complete_steps,
    load_result,
    load_student_params,
    save_average,
    save_result,
)
from jdistill.config import UserError
from jdistill.parallel import PreemptedError, as_process_0, check_shared, local_copy
from jdistill.student import save_architecture
from jdistill.train.evaluations import Evaluations
from jdistill.train.resume import check_same_run, same_evaluation
from jdistill.train.run import Run, TrainResult
from jdistill.train.state import TrainState, from_parts, student_of, to_parts
from jdistill.types import Metrics
from jdistill.yaml_text import write_yaml


class Checkpointer:
    """Saves a run and resumes it. All processes must call every method, since each writes its part of the arrays."""

    def __init__(self, run: Run):
        self._run = run
        self._recipe: dict[str, Any] = json.loads(json.dumps(run.recipe))  # as it is read from a checkpoint
        self._checkpoints = Checkpoints(run.folder, keep=run.config.keep_checkpoints)
        self._checked = 0
        self._average: PyTree[Array] | None = None
        self.finished: TrainResult | None = None
        """The result, if the run was already finished when it was restored."""

    def restore(self, state: TrainState) -> tuple[TrainState, Evaluations, bool]:
        """The state and evaluations to start from, and whether they come from a checkpoint.

        Args:
          state: the state before the first step, with the shardings of this run's mesh.

        Raises:
          UserError: if the folder belongs to another run, or the processes see different folders.
        """
        run, evaluations = self._run, Evaluations(self._run.config.keep_best, self._run.config.early_stopping)
        step, finished = self._found()
        if step is not None:
            stored = self._checkpoints.metadata(step)
            check_same_run(run.folder, stored, self._recipe, run.loader.fingerprint, step=step)
            state = from_parts(self._checkpoints.restore(step, to_parts(state)))
            evaluations.restore(stored, comparable=same_evaluation(stored["recipe"], self._recipe))
            self._checked = step
        # Only now, so that a refused run leaves the folder as it was.
        if jax.process_index() == 0:
            (run.folder / "config.yaml").write_text(write_yaml(self._recipe), encoding="utf-8")
            save_architecture(run.student, run.folder / "architecture")
        check_shared(run.folder / "config.yaml")
        if finished is not None:
            params, best_step = load_student_params(run.folder), finished["best_step"]
            self.finished = TrainResult(params, finished["step"], best_step, finished["evaluation"])
        return state, evaluations, step is not None

    def check_finite(self, step: int, metrics: Metrics) -> None:
        """Stop if loss or gradient are not finite, before they reach a checkpoint.

        Raises:
          UserError: naming the steps between which it happened, the terms, and the last good checkpoint.
        """
        numbers = {"loss": metrics.loss, **metrics.terms, "|g|": metrics.gradient_norm}
        # The first step that is not finite lies after the last one looked at, since only logged and saved steps are.
        if all(math.isfinite(float(number)) for number in numbers.values()):
            self._checked = step
            return
        self.wait()
        last = self._checkpoints.latest()
        shown = ", ".join(f"{name}={float(number):.4g}" for name, number in numbers.items())
        raise UserError(
            f"run at {self._run.folder}: the loss or its gradient became NaN or infinite between steps {self._checked} "
            f"and {step}: {shown}. Last good checkpoint: {'none' if last is None else f'step {last}'}. Lower "
            "train.optimizer.peak_lr or train.optimizer.clip_norm, or raise a loss's temperature, and train in another "
            "`run` folder."
        )

    def save(self, state: TrainState, evaluations: Evaluations) -> None:
        """Start writing a checkpoint. The best one so far and those to be averaged are kept, however old."""
        step, best_step = int(state.step), evaluations.best_step
        kept = [*self.averaged_steps(step), *([] if best_step is None else [best_step])]
        metadata = {"recipe": self._recipe, "loader": self._run.loader.fingerprint, **evaluations.as_json()}
        self._checkpoints.save(step, to_parts(state), metadata, keep=kept)

    def wait(self) -> None:
        """Block until all checkpoints are on disk."""
        self._checkpoints.wait()

    def averaged_steps(self, end: int) -> list[int]:
        """The steps that `average_checkpoints` averages in a run that ends after `end` steps; empty without it.

        Only multiples of `save_every` count, besides the end: checkpoints made on SIGTERM or for an evaluation would
        make the result depend on interruptions.
        """
        average, every = self._run.config.average_checkpoints, self._run.config.save_every
        # The end, and the last - 1 multiples before it.
        return [] if average is None else [*range(every, end, every)[1 - average.last :], end]

    def student(self, state: TrainState) -> PyTree[Array]:
        """The student as evaluated and exported: the state's; at the end with `average_checkpoints`, the average."""
        params, step = student_of(state), int(state.step)
        if self._run.config.average_checkpoints is None or step < self._run.total:
            return params
        if self._average is None:
            self._average = self._averaged(params, step)
        return self._average

    def finish(self, state: TrainState, evaluations: Evaluations) -> TrainResult:
        """Write result.json, after which the run is finished, and return the result."""
        params, step, best_step = self.student(state), int(state.step), evaluations.best_step
        self.wait()
        result: dict[str, Any] = {"step": step, "best_step": best_step, "evaluation": evaluations.of_result}
        if step < self._run.total:
            result["stopped_early"] = True
        if self._average is not None:
            save_average(self._run.folder, params)
            result["averaged_steps"] = self.averaged_steps(step)
        # Last, since it says that the run is finished: all that it names is on disk.
        if jax.process_index() == 0:
            save_result(self._run.folder, result)
        if best_step not in (None, step):
            params = self._checkpoints.restore(best_step, {"student": params})["student"]
        return TrainResult(local_copy(params), step, best_step, evaluations.of_result)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Completing a pending checkpoint needs all processes. After an error the others may never get here.
        if kind is None or issubclass(kind, PreemptedError) or jax.process_count() == 1:
            self._checkpoints.close()

    def _found(self) -> tuple[int | None, Mapping[str, Any] | None]:
        """The step of the latest checkpoint and, if the run is finished, its result.

        Every process reads both before process 0 writes anything.
        """
        step, result = self._checkpoints.latest(), load_result(self._run.folder)
        ended = step == self._run.total or "stopped_early" in (result or {})
        finished = result if result is not None and result["step"] == step and ended else None
        # As numbers, which is what processes exchange; -1 is no checkpoint.
        seen = {"step": -1.0 if step is None else float(step), "finished": float(finished is not None)}
        if seen != as_process_0(seen):
            found = "no checkpoint" if step is None else f"checkpoint {step}"
            raise UserError(
                f"run at {self._run.folder}: this process sees {found}, process 0 a different one. Put `run` on a file "
                "system shared by all hosts."
            )
        return step, finished

    def _averaged(self, params: PyTree[Array], step: int) -> PyTree[Array]:
        """The average of `params`, those of `step`, with those of the other steps to average."""
        self.wait()
        *earlier, _ = self.averaged_steps(step)
        missing = sorted({*earlier} - {*complete_steps(self._run.folder)})
        if missing:
            raise UserError(
                f"run at {self._run.folder}: train.average_checkpoints needs the checkpoint of step {missing[0]}, "
                "which is missing. Restore it from a copy, or train in another `run` folder."
            )
        like, mean = {"student": params}, None
        for count, each in enumerate([*earlier, step], 1):
            values = params if each == step else self._checkpoints.restore(each, like)["student"]
            # This form of the mean leaves equal values, as of frozen parameters, exactly as they are.
            mean = values if mean is None else jax.tree.map(lambda m, x, n=count: m + (x - m) / n, mean, values)
        return mean
