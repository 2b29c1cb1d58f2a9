"""Multi-process runs: start JAX's distributed runtime before any device is used, and shut it down in order.

Every process runs the same program on its own devices and rows; only process 0 prints and writes files. When a process
is lost, the others end in one of two ways, whichever notices first:

- A collective fails. `joined` recognises the error by its words, reports it and raises `LostProcessError`, and the
  command line exits with 75.
- JAX's coordination service, hosted by process 0, misses its heartbeats for `HEARTBEAT_SECONDS`. The runtime then
  prints that another task died, and aborts the process from C++ with SIGABRT (134 in shells), whatever it waits for.

After an error `leave` ends the process by `os._exit`: at a normal exit JAX would wait for the other processes.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax

from jdistill.config import UserError
from jdistill.parallel.preemption import PreemptedError

HEARTBEAT_SECONDS = 30
"""A process without heartbeats for this long is lost. Heartbeats come from a runtime thread, which neither busy Python
code nor a long XLA program blocks. Without them, a collective would wait forever for a lost process."""
CONNECT_SECONDS = 300
"""Seconds that processes wait for all others to start."""
LAST_SECONDS = 2
"""Seconds that process 0 stays after an error: the coordination service ends with it, and would end the others before
they have reported their own errors."""

_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket closed", "heartbeat", "unavailable")
"""Substrings of errors that mean that another process is lost, rather than that this one failed. JAX gives such errors
no type or code of their own. Without them the run would end as by a bug, with 1 instead of 75, and not be rerun."""


class Address(NamedTuple):
    """Address of a process in a run: the values of `--coordinator`, `--processes` and `--process`."""

    coordinator: str
    """`HOST:PORT` at which the others reach process 0; any free port."""
    processes: int
    """Number of processes."""
    process: int
    """Index of this process, from 0."""


class LostProcessError(Exception):
    """Another process was lost, so this one cannot continue; already reported. The run can be resumed."""


def address(coordinator: str | None, processes: int | None, process: int | None) -> Address | None:
    """The three options as one value; None if none is given.

    Raises:
      UserError: if one is missing or out of range.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if coordinator is None or processes is None or process is None:
        if len(missing) < len(given):
            raise UserError(
                f"{' and '.join(missing)}: missing. Give all of {', '.join(given)}, or none of them: TPU slices, GKE "
                "JobSets and SLURM steps are detected automatically, anything else runs as one process."
            )
        return None
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(
            f"--coordinator: is '{coordinator}', expected HOST:PORT at which the others reach process 0, "
            "such as 10.0.0.2:8476."
        )
    if not 0 <= process < processes:
        raise UserError(
            f"--process: is {process} of --processes {processes}, expected 0 to {processes - 1}, each used once."
        )
    return Address(coordinator, processes, process)


@contextmanager
def joined(given: Address | None) -> Iterator[None]:
    """Context manager that connects this process to the others of the run; does nothing for a single process.

    Enter it before any device is used. On exit without an error, or by a preemption, it waits until all others have
    finished too. On exit with another error it does not wait: `leave` must be called next.

    Args:
      given: from the command line; None detects a cluster from the environment.

    Raises:
      UserError: if the others cannot be reached; UserErrors from the body get the index of the process prepended.
      LostProcessError: if a collective failed because another process was lost.
    """
    if given is None and not _in_cluster():
        yield
        return
    _begin(given)
    try:
        yield
    except PreemptedError:
        # All processes stop after the same step, so all of them get here, and none waits for the others in vain.
        jax.distributed.shutdown()
        raise
    except UserError as error:
        # No shutdown, which would wait for processes that may not have this error: `leave` is next.
        raise UserError(f"process {jax.process_index()} of {jax.process_count()}: {error}") from error
    except Exception as error:
        if not _is_loss(error):
            raise
        # Report it now: the runtime may end this process at any moment.
        print(f"error: {_lost_text()} (JAX: {str(error).splitlines()[0]})", file=sys.stderr, flush=True)
        raise LostProcessError from error
    jax.distributed.shutdown()


def leave(code: int) -> None:
    """End this process with `code` at once, without waiting for the others.

    Does nothing for a single process, or after the runtime was shut down in order.
    """
    if not jax.distributed.is_initialized():
        return
    if jax.process_index() == 0:
        time.sleep(LAST_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _begin(given: Address | None) -> None:
    """Start the distributed runtime, and wait for all processes."""
    if given is not None and given.process != 0:
        _wait_for_coordinator(given)
    try:
        jax.distributed.initialize(
            coordinator_address=None if given is None else given.coordinator,
            num_processes=None if given is None else given.processes,
            process_id=None if given is None else given.process,
            # The options are complete, so nothing is left to detect, or to wait for.
            cluster_detection_method=None if given is None else "deactivate",
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, jax.errors.JaxRuntimeError) as error:  # nothing detected, or no process reachable
        raise UserError(
            f"{'the cluster around this process' if given is None else '--coordinator ' + given.coordinator}: the "
            f"processes did not find each other: {str(error).splitlines()[0]}. Start all of them within "
            f"{CONNECT_SECONDS} s, each with its own index and the same address of process 0; or set everything "
            "explicitly with --coordinator, --processes and --process."
        ) from error


def _wait_for_coordinator(given: Address) -> None:
    """Wait until process 0 can be reached; if JAX cannot reach it, it aborts without naming the address."""
    host, _, port = given.coordinator.rpartition(":")
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            # IPv6 addresses have brackets before a port, but not as a host of a socket.
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"--coordinator {given.coordinator}: process {given.process} cannot reach process 0 there: "
                    f"{error}. Start all processes within {CONNECT_SECONDS} s, each with its own --process and the "
                    "same address of process 0."
                ) from error
        time.sleep(0.1)


def _in_cluster() -> bool:
    """Whether the environment is that of a cluster in which JAX can detect the other processes.

    JAX's own detection is used only then: elsewhere it would wait for a metadata server or a Kubernetes API.
    """
    environment = os.environ
    # JAX sets this itself if it finds TPU chips, unless the user chose a platform.
    platforms: str = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    return (
        ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1)
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
        or "tpu" in platforms.split(",")
    )


def _is_loss(error: Exception) -> bool:
    """Whether the error means that another process was lost; orbax wraps such errors in others."""
    runtime = error if isinstance(error, jax.errors.JaxRuntimeError) else error.__cause__
    if type(error) is ValueError and str(error).startswith("UNKNOWN: Gloo"):  # of a collective that failed at dispatch
        runtime = error
    elif not isinstance(runtime, jax.errors.JaxRuntimeError):
        return False
    return any(words in str(runtime).lower() for words in _LOST)


def _lost_text() -> str:
    return (
        f"process {jax.process_index()} of {jax.process_count()}: stopped, because another process died or cannot be "
        "reached. Look for an error in its log; then rerun the same command on every host to resume from the last "
        "checkpoint."
    )
