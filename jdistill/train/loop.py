"""The training loop, to be read aloud: batch, step, log?, save?, stop?, evaluate.

The host runs at most two steps ahead of the devices and waits for them only there, and where it logs, evaluates or
saves. A killed run goes on from its last complete checkpoint and ends bit for bit as if never killed, because the
batch and the dropout of a step follow from its number. A step is saved before it is evaluated, so that an evaluation
that fails costs no training; a run that resumes at such a step evaluates it again.
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
from jdistill.train.config import TrainConfig, in_steps
from jdistill.train.console import Console
from jdistill.train.diagnose import Watch
from jdistill.train.needs import Evaluate, Loader
from jdistill.train.programs import Programs
from jdistill.train.run import Run, TrainResult
from jdistill.train.state import TrainState


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
    """Train a student, or go on with a run that was killed.

    Args:
      config: length, optimizer, and what happens when.
      student: turns tokens into vectors.
      params: its parameters before the first step; not changed.
      terms: name -> loss, teachers filled in.
      loader: batches by step, `config.global_batch_size` rows each.
      evaluate: student parameters -> metrics; None for no evaluation.
      folder: gets checkpoints, metrics.jsonl, config.yaml, architecture and result.json; where it holds checkpoints,
        the run goes on from the last complete one.
      recipe: the resolved recipe, plain values; a folder begun with another is refused.
      mesh: the devices.
      seed: decides dropout.
      made: what the student was made of, for the log of a run that begins.

    Raises:
      PreemptedError: if SIGTERM came: the step that was being done is done, and a checkpoint of it is on disk.
      UserError: if the folder holds another run, if rows do not divide over the devices, if a sink's package or the
        metric of `keep_best` is missing, if a teacher's vectors are not finite, or if the loss stops being so.
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
            console.say(f"run at {run.folder}: is finished, {step} of {run.total} steps. Nothing to do.")
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
    """From `step` to the end."""
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
    for batch in run.batches(step):  # 1. the batch, prepared in the background
        state, metrics = train_step(state, batch)  # 2. the step, which the devices do while the host goes on
        step += 1
        console.advance()
        if not resumed:
            watch.losses(metrics.terms, last=step == run.total)
        in_flight.append(metrics.loss)
        if len(in_flight) > 2:  # two steps ahead keep the devices busy; more would only hold batches in memory
            in_flight.popleft().block_until_ready()

        logs = step % config.log_every == 0 or step == run.total
        evaluates = evaluated(step)
        saves = step % config.save_every == 0 or step == run.total or evaluates
        stops = step < run.total and preemption.reached(step)
        if logs or saves or stops:
            metrics = jax.device_get(metrics)
            run.check_finite(metrics, checked, step)
            checked = step
        if logs:  # 3. the numbers of this step
            learned = jax.device_get(local_copy(state.params["losses"]))
            run.log(step, metrics, learned, console)
            watch.learned(learned)
        if saves or stops:  # 4. what the run goes on from if it is killed, or if its evaluation fails
            run.save(state, step, console)
        if stops:  # 5. make room, when told to
            raise PreemptedError(
                f"run at {run.folder}: stopped by SIGTERM after step {step} of {run.total}, which is saved. Start the "
                "same command again to go on from there."
            )
        if evaluates:  # 6. the student as it is now
            run.evaluate(state, step, console)
    return state  # 7. stop: the stream of batches ends with the last step


def _check(config: TrainConfig, loader: Loader, evaluate: Evaluate | None, mesh: Mesh) -> None:
    if config.global_batch_size != loader.global_batch_size:
        raise ValueError(f"the loader yields {loader.global_batch_size} rows, the configuration says otherwise")
    pieces = mesh.size * config.microbatches
    if loader.pieces not in (None, pieces):
        raise ValueError(f"the loader lays out batches in {loader.pieces} pieces, but they are encoded in {pieces}")
    check_rows(loader.global_batch_size, mesh)
    if config.keep_best is not None and evaluate is None:
        raise UserError(
            f"train.keep_best: nothing is evaluated, so '{config.keep_best.metric}' is never known. "
            "Add an evaluation, or drop keep_best."
        )
