"""The training loop: batch, step, log, save, stop, evaluate.

The host runs at most two steps ahead of the devices, and otherwise waits for them only to log, evaluate or save. An
interrupted run resumes from its last complete checkpoint with a bit-identical result, because batch and dropout depend
on the step number only. Steps are saved before they are evaluated, so that a failing evaluation loses no training; a
run that resumes at such a step evaluates it again.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing

import jax
from jaxtyping import Array, PyTree

from jdistill.config import UserError
from jdistill.parallel import PreemptedError, Preemption, as_process_0, local_copy, row_sharding, state_sharding
from jdistill.train.checkpointer import Checkpointer
from jdistill.train.programs import Programs
from jdistill.train.reporter import Reporter
from jdistill.train.run import Run, TrainResult
from jdistill.train.state import make_state
from jdistill.train.step import TrainStep, make_train_step
from jdistill.types import Batch


def train(run: Run, params: PyTree[Array], *, origin: Sequence[str] = ()) -> TrainResult:
    """Train a student, or resume an interrupted run if the run folder has checkpoints.

    Args:
      run: the run; its recipe must be the one that the folder was started with.
      params: the student's parameters before the first step; not modified.
      origin: lines on where the student comes from, printed when a run starts.

    Raises:
      PreemptedError: after SIGTERM, once the current step is finished and saved.
      UserError: if the folder belongs to another run, a sink's package or a metric is missing, or a teacher's vectors
        or the loss are not finite.
    """
    config, total = run.config, run.total
    run.folder.mkdir(parents=True, exist_ok=True)
    with Reporter(run) as reporter, Checkpointer(run) as checkpointer, Preemption() as preemption:
        # 1. Build the state, and restore it if there is a checkpoint.
        state = make_state(params, run.terms, run.optimizer, run.groups, ema=config.ema is not None)
        state = jax.device_put(state, state_sharding(state, run.mesh))
        state, evaluations, resumed = checkpointer.restore(state)
        step = int(state.step)
        if checkpointer.finished is not None:
            reporter.say(f"run at {run.folder}: is finished after {step} of {total} steps. Nothing to do.")
            return checkpointer.finished
        reporter.start(state, resumed=resumed, origin=origin)

        def evaluate() -> None:
            if jax.process_count() > 1:  # a process whose evaluation fails exits, but writing a checkpoint needs all
                checkpointer.wait()
            with reporter.paused():
                metrics = _metrics(run, checkpointer.student(state), step)
            reporter.evaluation(step, metrics)
            evaluations.add(step, metrics)
            if evaluations.stop_reason and step < total:
                reporter.say(f"step {step}: {evaluations.stop_reason}, so the run ends here")

        # 2. Compile the step for every batch shape, in the background.
        with closing(Programs(_train_step(run), run.mesh, state, run.examples(step))) as train_step:
            if run.evaluates(step):  # before the first step, or again after an interruption
                # It may turn out to be the best, and must then be on disk.
                if not resumed and config.keep_best is not None:
                    checkpointer.save(state, evaluations)
                evaluate()
            in_flight: deque[Array] = deque()
            # 3. Take the next batch, prepared in the background; none is left where evaluation has ended the run.
            for batch in () if evaluations.stop_reason else _on_devices(run, step):
                # 4. Step, dispatched asynchronously.
                state, metrics = train_step(state, batch)
                step += 1
                reporter.step(step, metrics)
                # A scalar of the step, and unlike the state not donated: once it is there, the step is done.
                in_flight.append(metrics.loss)
                if len(in_flight) > 2:  # two steps ahead keep the devices busy; more would only cost memory
                    in_flight.popleft().block_until_ready()

                logs = step % config.log_every == 0 or step == total
                saves = step % config.save_every == 0 or step == total or run.evaluates(step)
                # Not in the last step, which ends the run anyway; that holds on every process, so they still agree.
                stops = step < total and preemption.reached(step)
                if logs or saves or stops:
                    metrics = jax.device_get(metrics)
                    checkpointer.check_finite(step, metrics)
                # 5. Log.
                if logs:
                    reporter.log(step, metrics, state.params["losses"])
                # 6. Save, before an evaluation that may fail.
                if saves or stops:
                    with reporter.paused():
                        checkpointer.save(state, evaluations)
                # 7. Stop, on SIGTERM.
                if stops:
                    raise PreemptedError(
                        f"run at {run.folder}: stopped by SIGTERM after step {step} of {total}, which is saved. Rerun "
                        "the same command to resume."
                    )
                # 8. Evaluate, and end early if that brings no improvement any more.
                if run.evaluates(step):
                    evaluate()
                    if evaluations.stop_reason:
                        break

        # 9. Finish: the last student, the best one, or the average.
        result = checkpointer.finish(state, evaluations)
        if result.best_step not in (None, step):
            reporter.say(f"best step: {result.best_step}")
        if config.average_checkpoints is not None:
            steps = ", ".join(map(str, checkpointer.averaged_steps(step)))
            reporter.say(f"result: the average of the checkpoints of steps {steps}")
        return result._replace(warnings=reporter.warnings)


def _train_step(run: Run) -> TrainStep:
    return make_train_step(
        run.student,
        run.terms,
        run.optimizer,
        run.groups,
        run.mesh,
        seed=run.seed,
        total_steps=run.total,
        microbatches=run.config.microbatches,
        ema=None if run.config.ema is None else run.config.ema.decay,
    )


def _on_devices(run: Run, start: int) -> Iterator[Batch]:
    """The batches sharded over the devices by rows, each transferred two steps ahead."""
    rows, ahead = row_sharding(run.mesh), deque[Batch]()
    for batch in run.batches(start):
        ahead.append(jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch))
        if len(ahead) > 2:
            yield ahead.popleft()
    yield from ahead


def _metrics(run: Run, student: PyTree[Array], step: int) -> dict[str, float]:
    """Evaluate the student's parameters.

    Every process runs the evaluation: if only process 0 did, the others would wait in a collective that times out
    after minutes. All then use process 0's metrics, and thus make the same decisions.

    Raises:
      UserError: as the evaluation does, adding that the step is saved.
    """
    assert run.evaluate is not None
    kept = f"Step {step} of {run.total} is saved; rerun the same command to resume there and evaluate again."
    try:
        metrics = run.evaluate(local_copy(student))
    except UserError as error:
        raise UserError(f"{error} {kept}" if step else str(error)) from error
    except Exception as error:
        if step:
            error.add_note(kept)
        raise
    return as_process_0({name: float(value) for name, value in metrics.items()})
