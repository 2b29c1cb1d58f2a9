"""The training loop: batch, step, log, save, stop, evaluate.

The host runs at most two steps ahead of the devices, and otherwise waits for them only to log, evaluate or save. An
interrupted run resumes from its last complete checkpoint with a bit-identical result, because batch and dropout depend
on the step number only. Steps are saved before they are evaluated, so that a failing evaluation loses no training; a
run that resumes at such a step evaluates it again.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jdistill.checkpoint import load_student_params
from jdistill.config import UserError
from jdistill.losses import LossConfig
from jdistill.parallel import PreemptedError, Preemption, check_rows, local_copy
from jdistill.student import Student
from jdistill.train.config import TrainConfig
from jdistill.train.console import Console
from jdistill.train.diagnose import Watch
from jdistill.train.needs import Evaluate, Loader
from jdistill.train.programs import Programs
from jdistill.train.run import Run, TrainResult
from jdistill.train.state import TrainState
from jdistill.train.steps import in_steps


def train(
    config: TrainConfig,
    *,
    student: Student,
    params: PyTree[Array],
    terms: Mapping[str, LossConfig],
    loader: Loader,
    evaluate: Evaluate | None,
    folder: str | Path,
    recipe: dict[str, Any],
    mesh: Mesh,
    seed: int,
    made: Sequence[str] = (),
) -> TrainResult:
    """Train a student, or resume an interrupted run.

    Args:
      config: length of the run, optimizer, intervals.
      student: encodes tokens into vectors.
      params: its parameters before the first step; not modified.
      terms: name -> loss, teachers filled in.
      loader: batches by step, `config.global_batch_size` rows each.
      evaluate: student parameters -> metrics; None for no evaluation.
      folder: run folder for checkpoints, metrics.jsonl, config.yaml, architecture and result.json. If it has
        checkpoints, the run resumes from the last complete one.
      recipe: the resolved recipe, as plain values; must be the one that the folder was started with.
      mesh: the devices.
      seed: seed of dropout.
      made: log lines on the student's origin, printed when a run starts.

    Raises:
      PreemptedError: after SIGTERM, once the current step is finished and saved.
      UserError: if the folder belongs to another run, the rows do not divide over the devices, a sink's package or the
        metric of `keep_best` is missing, or a teacher's vectors or the loss are not finite.
    """
    folder = Path(folder)
    _check(config, loader, evaluate, mesh)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(
        config,
        student=student,
        terms=terms,
        loader=loader,
        evaluate=evaluate,
        folder=folder,
        recipe=recipe,
        mesh=mesh,
        seed=seed,
    )
    in_order = False
    try:
        with Preemption() as preemption:
            result = _train(run, params, preemption, made)
        in_order = True
        return result
    except PreemptedError:
        in_order = True
        raise
    finally:
        run.close(in_order=in_order)


def _train(run: Run, params: PyTree[Array], preemption: Preemption, made: Sequence[str]) -> TrainResult:
    state, resumed = run.begin(params)
    step = int(state.step)
    console = Console(run.total, start=step, rows=run.loader.global_batch_size, quiet=jax.process_index() != 0)
    try:
        if run.finished is not None:
            console.say(f"run at {run.folder}: is finished after {step} of {run.total} steps. Nothing to do.")
            best_step, evaluation = run.finished["best_step"], run.finished["evaluation"]
            return TrainResult(load_student_params(run.folder), step, best_step, evaluation)
        console.say(run.headline(state, step))
        watch = Watch(run.terms, console.say)
        if not resumed:
            for line in made:
                console.say(f"student: {line}")
            watch.student(run.student.config.projections, run.student.width)
            watch.targets(run.first_batch())
        with closing(run.programs(state, step)) as train_step:
            state = _loop(
                run, train_step, state, step, resumed=resumed, console=console, watch=watch, preemption=preemption
            )
        return run.finish(state, console)._replace(warnings=tuple(watch.warnings))
    finally:
        console.close()


def _loop(
    run: Run,
    train_step: Programs,
    state: TrainState,
    step: int,
    *,
    resumed: bool,
    console: Console,
    watch: Watch,
    preemption: Preemption,
) -> TrainState:
    """Train from `step` to the end."""
    config, checked = run.config, step
    evaluate_every = in_steps(config.evaluate_every, run.total) if config.evaluate_every else run.total

    def evaluated(step: int) -> bool:
        due = config.evaluate_at_start if step == 0 else step % evaluate_every == 0 or step == run.total
        return run.evaluates and due

    in_flight: deque[Array] = deque()
    if evaluated(step):
        if not resumed and config.keep_best is not None:
            run.save(state, step, console)
        run.evaluate(state, step, console)
        if run.stops_early:  # interrupted between its last evaluation and its end
            return state
    for batch in run.batches(step):  # 1. batch, prepared in the background
        state, metrics = train_step(state, batch)  # 2. step, dispatched asynchronously
        step += 1
        console.advance()
        if not resumed:
            watch.losses(metrics.terms, last=step == run.total)
        in_flight.append(metrics.loss)
        if len(in_flight) > 2:  # two steps ahead keep the devices busy; more would only cost memory
            in_flight.popleft().block_until_ready()

        logs = step % config.log_every == 0 or step == run.total
        evaluates = evaluated(step)
        saves = step % config.save_every == 0 or step == run.total or evaluates
        stops = step < run.total and preemption.reached(step)
        if logs or saves or stops:
            metrics = jax.device_get(metrics)
            run.check_finite(metrics, checked, step)
            checked = step
        if logs:  # 3. log
            learned = jax.device_get(local_copy(state.params["losses"]))
            run.log(step, metrics, learned, console)
            watch.learned(learned)
        if saves or stops:  # 4. save, before an evaluation that may fail
            run.save(state, step, console)
        if stops:  # 5. stop, on SIGTERM
            raise PreemptedError(
                f"run at {run.folder}: stopped by SIGTERM after step {step} of {run.total}, which is saved. Rerun the "
                "same command to resume."
            )
        if evaluates:  # 6. evaluate
            run.evaluate(state, step, console)
            if run.stops_early:
                break
    return state  # 7. stop: after the last step, or by early stopping


def _check(config: TrainConfig, loader: Loader, evaluate: Evaluate | None, mesh: Mesh) -> None:
    if config.global_batch_size != loader.global_batch_size:
        raise ValueError(f"the loader yields {loader.global_batch_size} rows, not global_batch_size")
    pieces = mesh.size * config.microbatches
    if loader.pieces not in (None, pieces):
        raise ValueError(f"the loader lays out batches in {loader.pieces} pieces, but they are encoded in {pieces}")
    check_rows(loader.global_batch_size, mesh)
    for option in ("keep_best", "early_stopping"):
        reads = getattr(config, option)
        if reads is not None and evaluate is None:
            raise UserError(
                f"train.{option}: there is no evaluation that reports '{reads.metric}'. Add one, or remove {option}."
            )
