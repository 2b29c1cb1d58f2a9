"""What a run tells its user: lines or a progress bar on the console, metric sinks, and early warnings."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jdistill.parallel import local_copy
from jdistill.progress import Progress
from jdistill.train.diagnose import Watch, learned_values
from jdistill.train.run import Run
from jdistill.train.schedule import make_schedule
from jdistill.train.sinks import Sink, check_sinks, open_sinks
from jdistill.train.state import TrainState
from jdistill.types import Metrics


class Reporter:
    """Reports the progress of a run. Only process 0 prints and writes, but all processes must call every method.

    Raises:
      UserError: if the package of a sink is not installed.
    """

    def __init__(self, run: Run):
        self._run = run
        self._prints = jax.process_index() == 0
        self._sinks: list[Sink] = []
        check_sinks(run.config.sinks if self._prints else ())
        self._watch = Watch(run.terms, self.say)
        self._learning_rate = make_schedule(run.config.schedule, run.config.optimizer.peak_lr, run.total)
        self._progress: Progress | None = None
        self._resumed = False
        self._last_step = 0
        self._since = time.perf_counter()

    def start(self, state: TrainState, *, resumed: bool, origin: Sequence[str]) -> None:
        """Begin with the headline; of a run that is not resumed, also with its origin and what is wrong with it.

        Args:
          state: the state that training starts from.
          resumed: whether it comes from a checkpoint.
          origin: lines on where the student comes from.

        Raises:
          UserError: if a teacher's vectors are not finite.
        """
        run, step = self._run, int(state.step)
        self._resumed, self._last_step, self._since = resumed, step, time.perf_counter()
        if self._prints:
            self._sinks = open_sinks(run.config.sinks, run.folder, run.recipe, step)
            self._progress = Progress("train", run.total, unit="steps", done=step, lines=False)
        self.say(_headline(run, state) + (f" | resumes from step {step}" if step else ""))
        if not resumed:
            for line in origin:
                self.say(f"student: {line}")
            self._watch.student(run.student.config.projections, run.student.width)
            self._watch.targets(next(iter(run.examples(0))))

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings so far."""
        return tuple(self._watch.warnings)

    def say(self, text: str) -> None:
        """Print one line on process 0, above the progress bar if there is one."""
        if self._progress is not None:
            self._progress.print(text)
        elif self._prints:
            print(text, file=sys.stderr, flush=True)

    def step(self, step: int, metrics: Metrics) -> None:
        """Count one dispatched step; its `metrics` may still be computing."""
        if self._progress is not None:
            self._progress.advance(1)
        if not self._resumed:
            self._watch.losses(metrics.terms, last=step == self._run.total)

    def log(self, step: int, metrics: Metrics, losses: Mapping[str, dict[str, Array]]) -> None:
        """Log a step.

        Args:
          step: updates done.
          metrics: those of the last update, on the host.
          losses: the losses' learned parameters, on the devices.
        """
        learned: Mapping[str, dict[str, Array]] = jax.device_get(local_copy(losses))
        values = {
            "train/loss": float(metrics.loss),
            **{f"train/loss/{name}": float(value) for name, value in metrics.terms.items()},
            **{f"train/{name}": value for name, value in learned_values(self._run.terms, learned).items()},
            "train/gradient_norm": float(metrics.gradient_norm),
            "train/update_norm": float(metrics.update_norm),
            # Of the update that led to `step`; the count of updates before it is step - 1.
            "train/learning_rate": jnp.asarray(self._learning_rate(step - 1)).item(),
            "train/padding": self._run.loader.batch_padding(step - 1),
            "train/rows_per_second": self._rows_per_second(step),
        }
        for sink in self._sinks:
            sink.scalars(step, values)
        self._print_step(step, metrics, values)
        self._watch.learned(learned)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an evaluation, `evaluator/metric` -> value, one line per evaluator."""
        for sink in self._sinks:
            sink.scalars(step, {f"evaluate/{name}": value for name, value in metrics.items()})
        lines: dict[str, list[str]] = {}
        for name, value in metrics.items():
            evaluator, _, metric = name.rpartition("/")
            lines.setdefault(evaluator or "evaluation", []).append(f"{metric} {value:.4f}")
        for evaluator, shown in lines.items():
            self.say(f"step {step:>{self._digits}}/{self._run.total}  {evaluator}:  {'  '.join(shown)}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the body, which is not spent on steps, from the reported rate."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.close()
        for sink in self._sinks:
            sink.close()

    @property
    def _digits(self) -> int:
        return len(str(self._run.total))

    def _rows_per_second(self, step: int) -> float:
        """The rate since the last call; NaN if no step was done since."""
        now = time.perf_counter()
        steps, seconds = step - self._last_step, now - self._since
        self._last_step, self._since = step, now
        return steps * self._run.loader.global_batch_size / seconds if steps and seconds > 0 else float("nan")

    def _print_step(self, step: int, metrics: Metrics, values: Mapping[str, float]) -> None:
        rate = values["train/rows_per_second"]
        terms = "".join(f"  {name} {float(value):.4g}" for name, value in metrics.terms.items())
        text = (
            f"loss {float(metrics.loss):.4g}{terms}  |g| {float(metrics.gradient_norm):.3g}"
            f"  lr {values['train/learning_rate']:.2e}"
        )
        if self._progress is not None and self._progress.on_terminal:
            self._progress.annotate(f"{text}  {_short(rate)} rows/s")
            return
        rows_left = (self._run.total - step) * self._run.loader.global_batch_size
        eta = _clock(rows_left / rate if rate > 0 else float("nan"))
        self.say(
            f"step {step:>{self._digits}}/{self._run.total}  {text}  {_short(rate)} rows/s"
            f"  padding {values['train/padding']:.0%}  eta {eta}"
        )


def _headline(run: Run, state: TrainState) -> str:
    """What decides a run, in one line."""
    loader, devices = run.loader, run.mesh.devices.flat
    size, trained = (_size(params.get("student", {})) for params in (state.params, run.groups.split(state.params)[0]))
    return (
        f"{run.recipe.get('name', run.folder.name)}: {size / 1e6:.2f}M parameters"
        + (f", {trained / 1e6:.2f}M trained" if trained < size else "")
        + f" | {devices[0].device_kind} x {len(devices)}"
        f" | {loader.row_count:,} rows, {loader.global_batch_size:,} per step"
        f" | {run.total:,} steps = {run.total / loader.steps_per_epoch:.2f} epochs"
        f" | {loader.layout}, {loader.padding:.0%} padding | {' + '.join(run.terms)}"
    )


def _size(params: PyTree[Array]) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def _short(number: float) -> str:
    if number != number:
        return "-"
    return f"{number / 1000:.1f}k" if number >= 10_000 else f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _clock(seconds: float) -> str:
    if seconds != seconds:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
