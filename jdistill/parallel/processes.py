"""Several processes, one program: JAX's multi-controller runtime, begun before any device is touched and left in order.

Every process runs the same program on its own devices and its own rows, and process 0 alone prints and writes files.
JAX's coordination service, which process 0 hosts, notices a process that is gone within `HEARTBEAT_SECONDS` and ends
the others, whatever they wait for.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax

from jdistill.config import UserError
from jdistill.parallel.preemption import PreemptedError

HEARTBEAT_SECONDS = 30
"""A process that was silent for so long is dead. Heartbeats come from a thread of the runtime, which a busy Python or
a long program does not hold up; a collective that lost a partner would otherwise wait for ever."""
CONNECT_SECONDS = 300
"""So long the first processes wait for the last one to start."""
LAST_SECONDS = 2
"""So long process 0 stays after an error: the coordination service ends with it, and would end the others before they
have told of theirs."""

# A line of this text is the runtime's sign that a partner is gone, rather than that this process did something wrong.
_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket closed", "heartbeat", "unavailable")

# Reads one word; told none, it speaks for the process that can no longer do so itself.
_LAST_WORDS = 'trap "" INT TERM HUP; read -r word || printf "%s\\n" "$1" >&2'


class Address(NamedTuple):
    """Where a process stands among all: what `--coordinator`, `--processes` and `--process` give."""

    coordinator: str
    """`HOST:PORT` of process 0, as the others reach it; any free port."""
    processes: int
    """How many there are."""
    process: int
    """Which one this is, from 0."""


class LostProcessError(Exception):
    """Another process is gone, so this one cannot go on; it was told, and started again, all of them can."""


def address(coordinator: str | None, processes: int | None, process: int | None) -> Address | None:
    """The three options as one value; None where none is given.

    Raises:
      UserError: if one is missing or out of range.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if coordinator is None or processes is None or process is None:
        if len(missing) < len(given):
            raise UserError(
                f"{' and '.join(missing)}: missing. Give all of {', '.join(given)}, or none of them: then a TPU slice, "
                "a GKE JobSet or a SLURM step is found by itself, and anything else is one process."
            )
        return None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"--coordinator: is '{coordinator}', expected HOST:PORT of process 0 as the others reach it, "
            "such as 10.0.0.2:8476."
        )
    if not 0 <= process < processes:
        raise UserError(
            f"--process: is {process} of --processes {processes}, expected 0 to {processes - 1}, each of them once."
        )
    return Address(coordinator, processes, process)


@contextmanager
def joined(given: Address | None) -> Iterator[None]:
    """Within it, this process is one of those that belong together; with nothing given and none found, it is alone.

    To be entered before anything touches a device. Left without an error, or for a preemption, it waits until all
    others have come to the end too. Left with another error, it does not: `leave` must be called next.

    Args:
      given: from the command line; None looks at the environment. Looking costs nothing where there is no cluster.

    Raises:
      UserError: if the others cannot be reached; those from inside are told with the number of the process.
      LostProcessError: if a collective failed because another process is gone.
    """
    if given is None and not _in_cluster():
        yield
        return
    _quiet_stdout()
    with _last_words("a process" if given is None else f"process {given.process} of {given.processes}"):
        _begin(given)
        try:
            yield
        except PreemptedError:
            jax.distributed.shutdown()
            raise
        except UserError as error:
            raise UserError(f"process {jax.process_index()} of {jax.process_count()}: {error}") from error
        except Exception as error:
            if not _is_loss(error):
                raise
            # Told here, while the last words are still waiting: the runtime may end this process any moment now.
            print(f"error: {_lost_text()} (JAX: {str(error).splitlines()[0]})", file=sys.stderr, flush=True)
            raise LostProcessError from error
        jax.distributed.shutdown()


def leave(code: int) -> None:
    """End this process with `code` where others may be waiting for it: at once, without waiting for them.

    Does nothing where this process is alone, or has parted from the others in order.
    """
    if not jax.distributed.is_initialized():
        return
    if jax.process_index() == 0:
        time.sleep(LAST_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _begin(given: Address | None) -> None:
    """Start the runtime, and wait for all processes."""
    try:
        jax.distributed.initialize(
            coordinator_address=None if given is None else given.coordinator,
            num_processes=None if given is None else given.processes,
            process_id=None if given is None else given.process,
            cluster_detection_method=None if given is None else "deactivate",
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, jax.errors.JaxRuntimeError) as error:  # nothing found, or nobody there
        raise UserError(
            f"{'the cluster around this process' if given is None else '--coordinator ' + given.coordinator}: the "
            f"processes did not find each other: {str(error).splitlines()[0]}. Start as many as there should be, "
            f"within {CONNECT_SECONDS} s, each with its own number and the same address of process 0; or say all of "
            "it with --coordinator, --processes and --process."
        ) from error


def _in_cluster() -> bool:
    """Whether JAX will find the other processes by itself, by what a scheduler tells those it starts.

    JAX's own detection is asked only then: elsewhere it would wait for a metadata server or a Kubernetes API.
    """
    environment = os.environ
    # Set by JAX itself where it sees TPU chips, unless the user chose others.
    platforms: str = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    return (
        ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1)
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
        or "tpu" in platforms.split(",")
    )


def _is_loss(error: Exception) -> bool:
    """Whether the runtime told of a partner that is gone, directly or, as orbax does, under another error's name."""
    runtime = error if isinstance(error, jax.errors.JaxRuntimeError) else error.__cause__
    text = str(runtime).lower()
    return isinstance(runtime, jax.errors.JaxRuntimeError) and any(sign in text for sign in _LOST)


def _lost_text() -> str:
    return (
        f"process {jax.process_index()} of {jax.process_count()}: stopped, because another process died or cannot be "
        "reached. Look for its error in its own log; then start the same command on every host again: the run goes on "
        "from its last checkpoint."
    )


@contextmanager
def _last_words(name: str) -> Iterator[None]:
    """Tell of the end of this process even where the runtime aborts it from C++, which no Python code outlives.

    A shell waits for a word from here, and prints the message if the pipe closes without one.
    """
    text = (
        f"error: {name}: ended without a word of its own: it was killed, or JAX stopped it because another process "
        f"died, was silent for {HEARTBEAT_SECONDS} s or did not start within {CONNECT_SECONDS} s. Look for an error in "
        "the logs of the others; then start the same command on every host again: the run goes on from its last "
        "checkpoint."
    )
    with subprocess.Popen(
        ["/bin/sh", "-c", _LAST_WORDS, "sh", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as shell:
        assert shell.stdin is not None
        try:
            yield
        finally:  # an error has words of its own
            shell.stdin.write(b"done\n")
            shell.stdin.close()


def _quiet_stdout() -> None:
    """What C++ libraries print, such as gloo on connecting, goes nowhere; what Python prints goes where it went."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
