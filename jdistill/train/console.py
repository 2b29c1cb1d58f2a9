"""Console output of a run: a progress bar on a terminal, otherwise one line per logged step."""

import sys
import time
from collections.abc import Mapping

from jdistill.types import Metrics


class Console:
    """Prints the progress of a run.

    Args:
      total: steps of the whole run.
      start: steps already done.
      rows: rows per step.
      quiet: print nothing, as on every process but the first.
    """

    def __init__(self, total: int, *, start: int, rows: int, quiet: bool):
        self._total = total
        self._rows = rows
        self._quiet = quiet
        self._bar = None
        self._last_step = start
        self._since = time.perf_counter()
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit=" steps", dynamic_ncols=True)

    def say(self, text: str) -> None:
        """Print one line."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def advance(self) -> None:
        """Count one dispatched step."""
        if self._bar is not None:
            self._bar.update(1)

    def pause(self, seconds: float) -> None:
        """Exclude time that was not spent on steps from the rate."""
        self._since += seconds

    def rate(self, step: int) -> float:
        """Rows per second since the last call; NaN if no step was done since."""
        now = time.perf_counter()
        steps, seconds = step - self._last_step, now - self._since
        self._last_step, self._since = step, now
        return steps * self._rows / seconds if steps and seconds > 0 else float("nan")

    def log(self, step: int, metrics: Metrics, values: Mapping[str, float]) -> None:
        """Print the metrics of a step."""
        rate = values["train/rows_per_second"]
        left = (self._total - step) * self._rows / rate if rate > 0 else float("nan")
        terms = "".join(f"  {name} {float(value):.4g}" for name, value in metrics.terms.items())
        text = (
            f"loss {float(metrics.loss):.4g}{terms}  |g| {float(metrics.gradient_norm):.3g}"
            f"  lr {values['train/learning_rate']:.2e}"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(f"{text}  {_short(rate)} rows/s")
            return
        width = len(str(self._total))
        self.say(
            f"step {step:>{width}}/{self._total}  {text}  {_short(rate)} rows/s"
            f"  padding {values['train/padding']:.0%}  eta {_clock(left)}"
        )

    def close(self) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()


def evaluation_lines(evaluation: Mapping[str, float]) -> list[str]:
    """One line per evaluator with its metrics; the keys of `evaluation` are `evaluator/metric`."""
    groups: dict[str, list[str]] = {}
    for name, value in evaluation.items():
        evaluator, _, metric = name.rpartition("/")
        groups.setdefault(evaluator or "evaluation", []).append(f"{metric} {value:.4f}")
    return [f"{evaluator}:  {'  '.join(metrics)}" for evaluator, metrics in groups.items()]


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
