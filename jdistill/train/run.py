"""A training run and its folder: starting or resuming, logging, evaluating, saving, finishing."""

import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jdistill.checkpoint import Checkpoints, load_result, save_result
from jdistill.config import UserError
from jdistill.losses import LossConfig
from jdistill.parallel import as_process_0, check_shared, host_share, local_copy, row_sharding, state_sharding
from jdistill.student import Student, save_architecture
from jdistill.train.config import TrainConfig
from jdistill.train.console import Console, evaluation_lines
from jdistill.train.diagnose import learned_values
from jdistill.train.groups import Groups, frozen_paths
from jdistill.train.needs import Evaluate, Loader
from jdistill.train.optimizer import make_optimizer
from jdistill.train.programs import Programs
from jdistill.train.resume import Best, CheckpointMetadata, check_same_run, read_note, same_evaluation
from jdistill.train.schedule import make_schedule
from jdistill.train.sinks import Sink, make_sinks
from jdistill.train.state import TrainState, from_parts, make_state, student_of, to_parts
from jdistill.train.step import make_train_step
from jdistill.train.stopping import Patience, waited
from jdistill.types import Batch, Metrics
from jdistill.yaml_text import write_yaml


class TrainResult(NamedTuple):
    """Result of a run."""

    params: PyTree[Array]
    """The student's parameters: the best with `keep_best`, otherwise the last."""
    step: int
    """Updates done."""
    best_step: int | None
    """Step of `params` with `keep_best`; otherwise None."""
    evaluation: dict[str, float]
    """Metrics of `params`; empty without evaluation."""
    warnings: tuple[str, ...] = ()
    """Warnings of diagnose/."""


class Run:
    """One training run in one folder, used by `train`."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        student: Student,
        terms: Mapping[str, LossConfig],
        loader: Loader,
        evaluate: Evaluate | None,
        folder: Path,
        recipe: dict[str, Any],
        mesh: Mesh,
        seed: int,
    ):
        self.config = config
        self.student = student
        self.loader = loader
        self._evaluate = evaluate
        self.evaluates = evaluate is not None
        self.folder = folder
        self.recipe: dict[str, Any] = json.loads(json.dumps(recipe))  # normalized as in a checkpoint
        self.mesh = mesh
        self._host = host_share(mesh)
        self.total = config.total_steps(loader.steps_per_epoch)
        self.groups = Groups(config.optimizer.groups, config.optimizer.weight_decay, frozen_paths(student))
        self.optimizer = make_optimizer(config.optimizer, config.schedule, self.total, self.groups)
        self._learning_rate = make_schedule(config.schedule, config.optimizer.peak_lr, self.total)
        self.terms = terms
        self.train_step = make_train_step(
            student,
            terms,
            self.optimizer,
            self.groups,
            mesh,
            seed=seed,
            total_steps=self.total,
            microbatches=config.microbatches,
            ema=None if config.ema is None else config.ema.decay,
        )
        self.sinks: list[Sink] = make_sinks(config.sinks, folder) if jax.process_index() == 0 else []
        self.checkpoints = Checkpoints(folder, keep=config.keep_checkpoints)
        self.evaluation: dict[str, float] | None = None
        self.best: Best | None = None
        self._waiting: Patience | None = None

    def begin(self, params: PyTree[Array]) -> tuple[TrainState, bool]:
        """The state to start or resume from, and whether it comes from a checkpoint.

        Raises:
          UserError: if the folder belongs to another run, or the processes see different folders.
        """
        state = make_state(params, self.terms, self.optimizer, self.groups, ema=self.config.ema is not None)
        state = jax.device_put(state, state_sharding(state, self.mesh))
        step = self._latest()
        if step is not None:
            note = read_note(self.checkpoints.note(step))
            check_same_run(self.folder, note, self.recipe, self.loader.fingerprint, step=step)
            state = from_parts(self.checkpoints.restore(step, to_parts(state)))
            self.evaluation = note.evaluation
            if same_evaluation(note.recipe, self.recipe):
                self.best, self._waiting = note.best, note.waiting
        if jax.process_index() == 0:
            text = write_yaml(self.recipe)
            (self.folder / "config.yaml").write_text(text, encoding="utf-8")
            save_architecture(self.student, self.folder / "architecture")
        check_shared(self.folder / "config.yaml")
        for sink in self.sinks if self.finished is None else ():  # a finished run writes no more metrics
            sink.start(self.recipe, step or 0)
        return state, step is not None

    def _latest(self) -> int | None:
        """The latest checkpoint; sets `finished`. Every process reads both before process 0 writes anything."""
        step, result = self.checkpoints.latest(), load_result(self.folder)
        ended = result is not None and result["step"] == step and (step == self.total or "stopped_early" in result)
        self.finished = result if ended else None
        seen = {"step": -1.0 if step is None else float(step), "finished": float(self.finished is not None)}
        if seen != as_process_0(seen):
            found = "no checkpoint" if step is None else f"checkpoint {step}"
            said = f"run at {self.folder}: this process sees {found}, process 0 a different one."
            raise UserError(f"{said} Put `run` on a file system shared by all hosts.")
        return step

    def headline(self, state: TrainState, step: int) -> str:
        """Summary of the run, in one line."""
        loader, devices = self.loader, self.mesh.devices.flat
        size, trained = (
            _size(params.get("student", {})) for params in (state.params, self.groups.split(state.params)[0])
        )
        epochs = self.total / loader.steps_per_epoch
        return (
            f"{self.recipe.get('name', self.folder.name)}: {size / 1e6:.2f}M parameters"
            + (f", {trained / 1e6:.2f}M trained" if trained < size else "")
            + f" | {devices[0].device_kind} x "
            f"{len(devices)} | {loader.row_count:,} rows, {loader.global_batch_size:,} per step | {self.total:,} steps "
            f"= {epochs:.2f} epochs | {loader.layout}, {loader.padding:.0%} padding | {' + '.join(self.terms)}"
            + (f" | resumes from step {step}" if step else "")
        )

    def programs(self, state: TrainState, start: int) -> Programs:
        """The train steps, compiled in the background."""
        return Programs(self.train_step, self.mesh, state, self.loader.examples(start, self.total, self._host))

    def first_batch(self) -> Batch:
        """The first batch, reduced to the rows of this host, in host memory."""
        return next(iter(self.loader.examples(0, self.total, self._host)))

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches sharded over the devices by rows, each transferred two steps ahead."""
        rows, ahead = row_sharding(self.mesh), deque()
        for batch in self.loader.stream(start, self.total, self._host):
            ahead.append(jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch))
            if len(ahead) > 2:
                yield ahead.popleft()
        yield from ahead

    def log(self, step: int, metrics: Metrics, learned: Mapping[str, dict[str, Array]], console: Console) -> None:
        """Log a step to sinks and console; `metrics` and the losses' `learned` parameters are on the host."""
        values = {
            "train/loss": float(metrics.loss),
            **{f"train/loss/{name}": float(value) for name, value in metrics.terms.items()},
            **{f"train/{name}": value for name, value in learned_values(self.terms, learned).items()},
            "train/gradient_norm": float(metrics.gradient_norm),
            "train/update_norm": float(metrics.update_norm),
            "train/learning_rate": jnp.asarray(self._learning_rate(step - 1)).item(),
            "train/padding": self.loader.batch_padding(step - 1),
            "train/rows_per_second": console.rate(step),
        }
        for sink in self.sinks:
            sink.scalars(step, values)
        console.log(step, metrics, values)

    def evaluate(self, state: TrainState, step: int, console: Console) -> None:
        """Evaluate the student, log the metrics, and record whether it is the best so far.

        Every process runs the evaluation: if only process 0 did, the others would wait in a collective that times out
        after minutes. All then use process 0's metrics, and thus make the same decisions.

        Raises:
          UserError: as the evaluation does, adding that the step is saved.
        """
        if self._evaluate is None:
            return
        if jax.process_count() > 1:  # a process whose evaluation fails exits, but writing a checkpoint needs all
            self.checkpoints.wait()
        began = time.perf_counter()
        kept = f"Step {step} of {self.total} is saved; rerun the same command to resume there and evaluate again."
        try:
            metrics = self._evaluate(local_copy(student_of(state)))
        except UserError as error:
            raise UserError(f"{error} {kept}" if step else str(error)) from error
        except Exception as error:
            if step:
                error.add_note(kept)
            raise
        self.evaluation = as_process_0({name: float(value) for name, value in metrics.items()})
        console.pause(time.perf_counter() - began)
        for sink in self.sinks:
            sink.scalars(step, {f"evaluate/{name}": value for name, value in self.evaluation.items()})
        for line in evaluation_lines(self.evaluation):
            console.say(f"step {step:>{len(str(self.total))}}/{self.total}  {line}")
        self._note_best(step, self.evaluation)
        stopping = self.config.early_stopping
        if stopping is not None:
            self._waiting = waited(stopping, self._waiting, self._metric("early_stopping", stopping.metric))
            if self.stops_early and step < self.total:
                console.say(
                    f"step {step}: {stopping.metric} has not improved for {self._waiting.evaluations} evaluations, so "
                    "the run ends here"
                )

    @property
    def stops_early(self) -> bool:
        """Whether early stopping has waited long enough."""
        stopping = self.config.early_stopping
        return stopping is not None and self._waiting is not None and self._waiting.evaluations >= stopping.patience

    def _metric(self, option: str, name: str) -> float:
        """A number of the last evaluation.

        Raises:
          UserError: if there is none of that name.
        """
        evaluation = self.evaluation or {}
        if name not in evaluation:
            raise UserError(
                f"train.{option}.metric: evaluation reports no '{name}'. It reports: {', '.join(evaluation)}."
            )
        return evaluation[name]

    def _note_best(self, step: int, evaluation: dict[str, float]) -> None:
        keep = self.config.keep_best
        if keep is None:
            return
        value = self._metric("keep_best", keep.metric)
        if not math.isnan(value) and (self.best is None or self._is_better(value, self.best)):
            self.best = Best(step, value, evaluation)

    def _is_better(self, value: float, best: Best) -> bool:
        """Whether `value` is better; on a tie the earlier step wins, unless it is step 0, before training."""
        assert self.config.keep_best is not None
        above = value > best.value if self.config.keep_best.mode == "max" else value < best.value
        return above or (best.step == 0 and value == best.value)

    def save(self, state: TrainState, step: int, console: Console) -> None:
        """Start writing a checkpoint; the best checkpoint so far is kept."""
        began = time.perf_counter()
        note = CheckpointMetadata(self.recipe, self.loader.fingerprint, self.evaluation, self.best, self._waiting)
        best = None if self.best is None else self.best.step
        self.checkpoints.save(step, to_parts(state), note.as_json(), best=best)
        console.pause(time.perf_counter() - began)

    def check_finite(self, metrics: Metrics, checked: int, step: int) -> None:
        """Stop if loss or gradient are not finite, before they reach a checkpoint.

        Raises:
          UserError: naming the steps between which it happened, the terms, and the last good checkpoint.
        """
        numbers = {"loss": metrics.loss, **metrics.terms, "|g|": metrics.gradient_norm}
        if all(math.isfinite(float(number)) for number in numbers.values()):
            return
        self.checkpoints.wait()
        last = self.checkpoints.latest()
        shown = ", ".join(f"{name}={float(number):.4g}" for name, number in numbers.items())
        raise UserError(
            f"run at {self.folder}: the loss or its gradient became NaN or infinite between steps {checked} and {step}:"
            f" {shown}. Last good checkpoint: {'none' if last is None else f'step {last}'}. Lower "
            "train.optimizer.peak_lr or train.optimizer.clip_norm, or raise a loss's temperature, and train in another "
            "`run` folder."
        )

    def finish(self, state: TrainState, console: Console) -> TrainResult:
        """Write result.json and return the result, with the best parameters if the run has `keep_best`."""
        self.checkpoints.wait()
        step = int(state.step)
        best_step = None if self.best is None else self.best.step
        evaluation = (self.evaluation if self.best is None else self.best.evaluation) or {}
        if jax.process_index() == 0:
            result = {"step": step, "best_step": best_step, "evaluation": evaluation}
            save_result(self.folder, result if step == self.total else result | {"stopped_early": True})
        params = student_of(state)
        if best_step is not None and best_step != step:
            like = {"student": params}
            params = self.checkpoints.restore(best_step, like)["student"]
            console.say(f"best step: {best_step}")
        return TrainResult(local_copy(params), step, best_step, evaluation)

    def close(self, *, in_order: bool) -> None:
        """Stop background threads and close files.

        Args:
          in_order: whether all processes get here. Otherwise a pending checkpoint, which needs all of them, is given
            up.
        """
        for sink in self.sinks:
            sink.close()
        if in_order or jax.process_count() == 1:
            self.checkpoints.close()


def _size(params: PyTree[Array]) -> int:
    return sum(x.size for x in jax.tree.leaves(params))
