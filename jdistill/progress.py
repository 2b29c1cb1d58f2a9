"""Progress of long work: a progress bar on a terminal, otherwise a line every 30 seconds."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Context manager that counts finished items.

    Args:
      title: label, such as `embed minilm`.
      total: number of items; None if unknown.
      unit: name of the items, in the plural.
      done: items finished by an earlier process; not included in the rate.
      lines: whether to print lines where there is no terminal; off where the caller prints its own.
      quiet: show nothing.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        unit: str = "texts",
        done: int = 0,
        lines: bool = True,
        quiet: bool = False,
    ) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._already = done
        self._quiet, self._lines = quiet, lines and not quiet
        self._start = self._reported = time.monotonic()
        self._shown = -1  # items done at the last line
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, desc=title, unit=f" {unit}", unit_scale=True, dynamic_ncols=True
            )

    def advance(self, count: int) -> None:
        """Count `count` more items."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._lines and time.monotonic() - self._reported >= _SECONDS_BETWEEN_LINES:
            self._reported = time.monotonic()
            self._print()

    @property
    def on_terminal(self) -> bool:
        """Whether a progress bar is shown."""
        return self._bar is not None

    def print(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def annotate(self, text: str) -> None:
        """Show `text` after the progress bar, until the next call; nothing is printed where there is no terminal."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        """End the progress bar, if there is one."""
        if self._bar is not None:
            self._bar.close()

    def line(self) -> str:
        """Progress as text, such as `embed minilm: 1,200 of 4,000 texts (30%), 85 texts/s, 33 s left`."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._already) / seconds
        pace = f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2f} {self.unit}/s"
        if self.total is None:
            return f"{self.title}: {self.done:,} {self.unit}, {pace}"
        left = f", {_duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        share = self.done / max(self.total, 1)
        return f"{self.title}: {self.done:,} of {self.total:,} {self.unit} ({share:.0%}), {pace}{left}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self.close()
        elif kind is None and self._shown not in (-1, self.done):  # report the end only if progress was reported before
            self._print()

    def _print(self) -> None:
        self._shown = self.done
        print(self.line(), file=sys.stderr, flush=True)


def counted(items: Iterable[Item], title: str, *, unit: str) -> Iterator[Item]:
    """Iterate over `items`, of which the number is unknown, and show how many are done."""
    with Progress(title, None, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance(1)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
