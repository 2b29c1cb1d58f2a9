"""Exit codes of the command line, and what a failed command prints.

0 success, 2 user error (one paragraph, no traceback), 1 a bug, 130 interrupted, 75 (EX_TEMPFAIL) rerun the same
command: either a checkpoint was saved after SIGTERM, or another process of the run was lost. If JAX notices the lost
process first, it aborts with SIGABRT (134 in shells); rerun then too.
"""

import errno
import sys

EXIT_RETRY = 75
"""Exit code asking for a rerun: EX_TEMPFAIL in sysexits.h."""

_REFUSALS = {
    errno.EACCES: "Check the permissions.",
    errno.EPERM: "Check the permissions.",
    errno.EROFS: "Choose a writable path.",
    errno.ENOTDIR: "Part of the path is a file; choose another path.",
    errno.EEXIST: "A file exists where a folder is expected; choose another path.",
    errno.EISDIR: "Expected a file, not a folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOSPC: "Free some space, then rerun the same command.",
    errno.EDQUOT: "Free some space, then rerun the same command.",
    errno.EFBIG: "Raise the file size limit (ulimit -f), then rerun the same command.",
}
"""Advice for each operating system error that the user can fix."""


def exit_code(error: BaseException, *, traceback: bool) -> int:
    """Print what a command failed with, and return its exit code; re-raises bugs.

    Args:
      error: what the command raised.
      traceback: re-raise the user's mistakes too, to see where they were noticed.
    """
    from jdistill.config import UserError

    if isinstance(error, KeyboardInterrupt):
        print("Interrupted. Rerun the same command to resume from the last shard or checkpoint.", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):
        return 0
    if isinstance(error, UserError) and not traceback:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    if isinstance(error, OSError) and error.errno in _REFUSALS and not traceback:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}. {_REFUSALS[error.errno]}", file=sys.stderr, flush=True)
        return 2
    return _retry(error)


def _retry(error: BaseException) -> int:
    """Exit code for a preempted run or a lost process; anything else is re-raised."""
    if "jax" not in sys.modules:
        raise error
    import jax

    from jdistill.parallel import LostProcessError, PreemptedError

    if isinstance(error, PreemptedError):
        if jax.process_index() == 0:
            print(error, file=sys.stderr)
    elif not isinstance(error, LostProcessError):  # already reported
        raise error
    return EXIT_RETRY
