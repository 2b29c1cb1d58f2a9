"""Atomic file writes: to a temporary file in the same folder, then fsync and rename.

Temporary files are called `.NAME.HOST.PID.tmp`, so that several processes can write the same file, and leftovers of
dead processes can be distinguished from files that are being written.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from jdistill.config import UserError

# Without dots, at which `remove_stale` splits names.
_HOST = socket.gethostname().replace(".", "-") or "localhost"


def temporary(path: Path) -> Path:
    """The temporary path from which this process will rename to `path`, on the same file system."""
    return path.parent / f".{path.name}.{_HOST}.{os.getpid()}.tmp"


def remove_stale(folder: Path, *, all_hosts: bool = False) -> None:
    """Delete temporary files of this machine's dead processes in `folder` and its subfolders.

    With `all_hosts`, also delete those of other machines, whose processes may be alive: only safe once nothing is left
    to write.
    """
    found = []
    for root, folders, files in os.walk(folder):  # tolerates concurrent renames
        found += [Path(root, name) for name in (*folders, *files) if name.startswith(".") and name.endswith(".tmp")]
    for path in sorted(found):
        *_, host, pid, _ = path.name.split(".")
        if (all_hosts and host != _HOST) or (host == _HOST and pid.isdigit() and not _alive(int(pid))):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def publish(made: Path, path: Path) -> None:
    """Rename a synced temporary file to `path`, durably."""
    try:
        os.replace(made, path)
    except FileNotFoundError:  # another process was faster and has cleaned up
        if not path.is_file():
            raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(file: IO[Any]) -> None:
    """Flush and fsync, so that a rename cannot become durable before the content."""
    file.flush()
    os.fsync(file.fileno())


def save_array(path: Path, array: np.ndarray) -> str:
    """Write one .npy file atomically; returns its sha256."""
    made = temporary(path)
    with made.open("wb") as file:
        # A fixed version of the header: NumPy's releases must write the same bytes.
        np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
        sync(file)
    # Of the file with its header, as `verify` computes it.
    digest = sha256_of(made)
    publish(made, path)
    return digest


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; deterministic."""
    made = temporary(path)
    with made.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        sync(file)
    publish(made, path)


def load_json(path: Path, *, keys: Sequence[str] = (), aside: Path | None = None) -> dict[str, Any]:
    """The mapping in a file written by `save_json`.

    Args:
      path: the file.
      keys: required keys.
      aside: folder to rebuild if this file is damaged, for the message; default: the file's own folder.

    Raises:
      UserError: if the file is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}. {_remedy(path, aside)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is a {type(content).__name__}, expected a mapping. {_remedy(path, aside)}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}. {_remedy(path, aside)}")
    return content


def open_array(path: Path, *, aside: Path | None = None) -> np.ndarray:
    """A memory-mapped .npy file, read-only.

    Args:
      path: the file.
      aside: as for `load_json`.

    Raises:
      UserError: if the file is missing or damaged.
    """
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: is missing or damaged. {_remedy(path, aside)}") from error
    return mapped.view(np.ndarray)  # plain arrays index several times faster than np.memmap


def _remedy(path: Path, aside: Path | None) -> str:
    return f"Restore it from a copy, or move {aside or path.parent} aside and rebuild it."


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_stored(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` after a round trip through JSON (tuples become lists), for comparison with stored content."""
    return json.loads(json.dumps(content))


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Describe each field that differs; only fields in both mappings are compared."""
    found = []
    for key in wanted:
        if key not in stored:
            continue
        old, new = stored[key], wanted[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} is {_shown(old)} in the store and {_shown(new)} now")
    return found


class ArrayStream:
    """Context manager that writes a one-dimensional .npy file of unknown length."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.length = 0
        # The header has to precede the values, but its shape is known only at the end. NumPy pads headers for this
        # purpose, so that one for more values has the same length.
        self._file = path.open("wb")
        self._write_header()

    def append(self, values: np.ndarray | bytes) -> None:
        """Add values of the stream's dtype, or their bytes."""
        data = values if isinstance(values, bytes) else np.ascontiguousarray(values, self.dtype).data
        self._file.write(data)
        self.length += len(data) // self.dtype.itemsize if isinstance(data, bytes) else len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is not None:
                return
            end = self._file.tell()
            self._file.seek(0)
            self._write_header()
            assert end == self._file.tell() + self.length * self.dtype.itemsize, "numpy changed the header's length"
            sync(self._file)

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 70 else text[:67] + "..."


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, and is another user's
        return True
    return True
