"""What is known about a teacher without loading it: enough to refuse a store that another teacher filled."""

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.teacher.config import TeacherConfig


def describe(config: TeacherConfig) -> dict[str, Any]:
    """The fields of the description that the configuration fixes, for `store.check_teacher`.

    What the model decides is left out; so is the weight hash where the model lies on another machine. Imports no torch.
    """
    fixed: dict[str, Any] = {"model": config.model, "precision": config.precision, "dtype": config.dtype}
    fixed |= {"truncate_dim": config.truncate_dim, "layer": config.layer}
    fixed["prompts"] = config.prompts.model_dump(exclude_none=True)
    for key in ("max_length", "normalize"):
        if getattr(config, key) is not None:
            fixed[key] = getattr(config, key)
    folder = find_folder(config)
    hash_ = None if folder is None else weight_hash(folder)
    if hash_ is not None:
        fixed["weight_hash"] = hash_
    if is_commit(config.revision):
        fixed["revision"] = config.revision
    return fixed


def find_folder(config: TeacherConfig) -> Path | None:
    """The model's folder on this machine: its own, or the hub's cache; None if it is in neither."""
    local = Path(config.model).expanduser()
    if local.is_dir():
        return local
    if not _may_be_hub_id(config.model):
        return None
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(config.model, revision=config.revision, local_files_only=True))
    except (OSError, ValueError):  # not in the cache, or no id at all
        return None


def require_model(config: TeacherConfig, *, where: str) -> None:
    """Refuse a folder that does not exist; hub ids pass.

    Raises:
      UserError: with a guess at which folder was meant.
    """
    path = Path(config.model).expanduser()
    if path.is_dir() or _may_be_hub_id(config.model):
        return
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*") if p.is_dir()], n=1)
    hint = f"Did you mean '{path.parent / near[0]}'?" if near else "Give an existing folder, or an id of the hub."
    raise UserError(f"{where}: model '{config.model}': no such folder. {hint}")


def weight_hash(folder: Path) -> str | None:
    """sha256 over the names and bytes of the model's safetensors files; None if it has none."""
    places = [folder]
    if (folder / "modules.json").is_file():
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        places += [folder / module["path"] for module in modules if module["path"]]
    files = {file for place in places for file in place.glob("*.safetensors")}
    if not files:
        return None
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.relative_to(folder).as_posix()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{file.relative_to(folder).as_posix()} {digest}\n".encode())
    return whole.hexdigest()


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one commit forever."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _may_be_hub_id(model: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model) is not None
