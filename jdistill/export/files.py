"""Replaces the folder of an export atomically."""

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jdistill
from jdistill.config import UserError
from jdistill.folders import write_json

MARKER = "jdistill.json"
"""Lists the files of an export. A non-empty folder without it is never replaced."""


@contextmanager
def replacing(folder: Path, **origin: Any) -> Iterator[Path]:
    """A temporary folder that replaces `folder` if the block succeeds, and is removed if it fails.

    If `folder` is a symbolic link, its target is replaced. Leftovers of killed exports to the same place are removed.

    Args:
      folder: what to replace.
      origin: JSON values that the marker records beside the list of files; `read_marker` returns them.

    Raises:
      UserError: if `folder` contains files that no export wrote.
    """
    folder = Path(os.path.realpath(folder.expanduser()))
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    fresh.mkdir()
    # From now on other exports leave the folder alone; the lock ends with this process, however it ends.
    held = _hold(fresh)
    try:
        yield fresh
        files = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file())
        write_json(fresh / MARKER, {"jdistill": jdistill.__version__, **origin, "files": files})
        old = fresh.with_name(fresh.name + ".old")
        if folder == Path.cwd():  # renaming it would leave the user's shell in a deleted folder
            _replace_content(folder, fresh, old)
        else:
            # Two renames, since one onto a folder with content fails.
            if folder.exists():
                os.rename(folder, old)
            os.rename(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if held is not None:
            os.close(held)


def _replace_content(folder: Path, fresh: Path, old: Path) -> None:
    """Move the content of `folder` to `old` and that of `fresh` to `folder`; undo both on failure."""
    old.mkdir()
    try:
        _move_content(folder, old)
        _move_content(fresh, folder)
    except BaseException:
        _move_content(folder, fresh)
        _move_content(old, folder)
        raise


def _move_content(source: Path, target: Path) -> None:
    """Move every entry of a folder, the export's marker file last."""
    for path in sorted(source.iterdir(), key=lambda path: path.name == MARKER):
        os.rename(path, target / path.name)


def _hold(folder: Path) -> int | None:
    """Lock a folder until this process ends, so that others can tell a leftover from an export in progress.

    Returns a file descriptor, or None if another process has the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_leftover(folder: Path) -> bool:
    descriptor = _hold(folder)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def _remove_leftovers(folder: Path) -> None:
    """Remove hidden folders of exports to the same place whose process no longer exists."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}(\.old)?")
    for path in folder.parent.iterdir():
        if not pattern.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        maker = path.with_suffix("") if path.suffix == ".old" else path
        if maker != path and maker.is_dir() and not _is_leftover(maker):
            continue  # another process is between its two renames
        if maker != path and not folder.exists():
            os.rename(path, folder)  # a process was killed between its two renames: restore the earlier export
        elif (descriptor := _hold(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder to export to. Choose another path.")
    present = _entries(folder) if folder.exists() else set()
    if not present:
        return
    ours = {MARKER, "README.md", *_listed(folder)} if MARKER in present else set()
    if foreign := sorted(present - ours):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{folder}: contains files that no export wrote ({foreign[0]}{more}); they would be lost. Expected a new "
            "folder or an earlier export. Choose another path, or move the files."
        )


def _entries(folder: Path) -> set[str]:
    """Relative paths of all files and links; links to folders are not followed."""
    found = set()
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found |= {os.path.relpath(os.path.join(root, name), folder) for name in [*files, *links]}
    return found


def read_marker(folder: Path) -> dict[str, Any]:
    """What an export's marker records; empty if there is none or it cannot be read."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _listed(folder: Path) -> list[str]:
    """The files of the export in a folder; none if its marker cannot be read."""
    files = read_marker(folder).get("files")
    return [str(name) for name in files] if isinstance(files, list) else []
