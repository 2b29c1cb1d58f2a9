"""Writing an export: JSON, tensors, and a folder that takes another's place all at once or not at all."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import jdistill
from jdistill.config import UserError

MARKER = "jdistill.json"
"""Lists the files of an export; a folder without it is not ours to replace."""


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Float32, each tensor contiguous: safetensors writes the memory as it lies."""
    plain = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def write_json(path: Path, content: Any) -> None:
    """Indented, in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
      UserError: if `folder` holds anything that an export did not write.
    """
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    fresh.mkdir()
    try:
        yield fresh
        files = sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file())
        write_json(fresh / MARKER, {"jdistill": jdistill.__version__, "files": files})
        old = fresh.with_name(fresh.name + ".old")
        if folder.exists():
            os.rename(folder, old)
        os.rename(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file, expected a folder to export to. Name another place.")
    present = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} if folder.exists() else set()
    if not present:
        return
    ours = set()
    if MARKER in present:
        ours = {MARKER, "README.md", *json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]}
    if foreign := sorted(present - ours):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{folder}: holds files that no export wrote ({foreign[0]}{more}); they would be lost. Expected a new "
            "folder or an earlier export: name another place, or move the files."
        )
