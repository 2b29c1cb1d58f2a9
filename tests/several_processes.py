"""Several `jdistill` commands on this machine that train together, as on several hosts; every wait has a bound.

Import as `from tests.several_processes import Together, done`.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[1]
BOUND = 240.0
"""Seconds that nothing here takes on any machine; it only keeps a broken test from hanging."""

# Where a runtime that aborts a process was at that time.
_FRAME = re.compile(r"\s+@\s+0x")

# Each batch takes its time, so that there is a midst of training to be disturbed in.
_SLOWLY = """
import time
from jdistill import loader
batch = loader.Loader.batch
def slowly(self, *arguments):
    time.sleep({seconds})
    return batch(self, *arguments)
loader.Loader.batch = slowly
"""
_RUN = """
from jdistill import cli
cli.run()
"""


class Together:
    """`count` processes of one command, begun at once; a context manager that leaves none behind.

    Args:
      arguments: of the command; `--coordinator` and so on are added where `count` is more than one.
      count: how many.
      devices: virtual CPU devices of each.
      seconds: that each batch takes longer.
      before: Python that runs before the command.
    """

    def __init__(
        self, arguments: Sequence[object], *, count: int, devices: int = 2, seconds: float = 0.0, before: str = ""
    ):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(ROOT),
        }
        coordinator = f"127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[str]] = []
        self.errors: list[list[str]] = [[] for _ in range(count)]
        """What each has written to standard error so far, line by line."""
        self._readers: list[threading.Thread] = []
        for process in range(count):
            several = ["--coordinator", coordinator, "--processes", count, "--process", process] if count > 1 else []
            program = (_SLOWLY.format(seconds=seconds) if seconds else "") + before + _RUN
            command = [sys.executable, "-c", program, *arguments, *several]
            started = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.processes.append(started)
            self._readers.append(threading.Thread(target=self._read, args=(process,), daemon=True))
            self._readers[-1].start()

    def __enter__(self) -> "Together":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait_for(self, true: Callable[[], bool]) -> None:
        """Until something is true; all must be running then."""
        end = time.monotonic() + BOUND
        while not true():
            assert time.monotonic() < end, f"waited for {BOUND} s in vain: {self.message()}"
            assert all(process.poll() is None for process in self.processes), f"ended before: {self.message()}"
            time.sleep(0.01)

    def codes(self) -> list[int]:
        """Exit codes, once all have ended."""
        codes = [process.wait(BOUND) for process in self.processes]
        for reader in self._readers:
            reader.join(BOUND)
        return codes

    def message(self) -> str:
        """Standard error, process by process; last, where a long report is not cut, of one that was not aborted."""
        order = sorted(range(len(self.processes)), key=lambda i: self.processes[i].poll() != -signal.SIGABRT)
        shown = {i: "".join(line for line in self.errors[i] if not _FRAME.match(line)) for i in order}
        return "\n".join(f"process {i}, {self.processes[i].poll()}:\n{text}" for i, text in shown.items())

    def printed(self) -> list[str]:
        """Standard output of each, without what gloo prints on connecting; to be asked once, after they have ended."""
        outputs = [process.stdout.readlines() for process in self.processes if process.stdout is not None]
        return ["".join(line for line in lines if not line.startswith("[Gloo]")) for lines in outputs]

    def _read(self, process: int) -> None:
        stream = self.processes[process].stderr
        assert stream is not None
        for line in stream:
            self.errors[process].append(line)


def done(arguments: Sequence[object], *, count: int, devices: int = 2) -> list[str]:
    """Run to a good end; standard output of each process."""
    with Together(arguments, count=count, devices=devices) as together:
        assert together.codes() == [0] * count, together.message()
        assert not any(together.errors[1:]), f"only process 0 prints: {together.message()}"
        return together.printed()


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
