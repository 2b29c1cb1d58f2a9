"""What is known about a teacher without loading it: enough to refuse a store that another teacher filled."""

import difflib
import re
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders import config_hash, tokenizer_hash, weight_hash
from jdistill.teacher.config import TeacherConfig


def describe(config: TeacherConfig) -> dict[str, Any]:
    """The fields of the description that the configuration fixes, for `store.check_teacher`.

    What the model decides is left out; so are the hashes of its files where they lie on another machine. Imports no
    torch.
    """
    fixed: dict[str, Any] = {"model": config.model, "precision": config.precision, "dtype": config.dtype}
    fixed |= {"truncate_dim": config.truncate_dim, "layer": config.layer}
    fixed["prompts"] = config.prompts.model_dump(exclude_none=True)
    for key in ("max_length", "normalize"):
        if getattr(config, key) is not None:
            fixed[key] = getattr(config, key)
    folder = find_folder(config)
    if folder is not None:
        found = hashes(config, folder)
        # Of a model on the hub, the cache of this machine may hold some files only; weights it holds all or none.
        fixed |= found if is_local(config) else {key: found[key] for key in found if key == "weight_hash"}
    if is_commit(config.revision):
        fixed["revision"] = config.revision
    return fixed


def find_folder(config: TeacherConfig) -> Path | None:
    """The model's folder on this machine: its own, or the hub's cache; None if it is in neither."""
    if is_local(config):
        return Path(config.model).expanduser()
    if not _may_be_hub_id(config.model):
        return None
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(config.model, revision=config.revision, local_files_only=True))
    except (OSError, ValueError):  # not in the cache, or no id at all
        return None


def is_local(config: TeacherConfig) -> bool:
    """Whether the model is a folder that the configuration names, and not an id of the hub."""
    return Path(config.model).expanduser().is_dir()


def require_model(config: TeacherConfig, *, where: str) -> None:
    """Refuse a folder that does not exist; hub ids pass.

    Raises:
      UserError: with a guess at which folder was meant.
    """
    path = Path(config.model).expanduser()
    if is_local(config) or _may_be_hub_id(config.model):
        return
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*") if p.is_dir()], n=1)
    hint = f"Did you mean '{path.parent / near[0]}'?" if near else "Give an existing folder, or an id of the hub."
    raise UserError(f"{where}: model '{config.model}': no such folder. {hint}")


def hashes(config: TeacherConfig, folder: Path) -> dict[str, str]:
    """What identifies the files of a teacher: hashes of its weights, tokenizer and configuration, where they exist.

    Of a snapshot of the hub, only JSON files count besides weights: `loading` fetches all of them, perhaps no others.
    """
    local = is_local(config)
    found = {
        "weight_hash": weight_hash(folder),
        "tokenizer_hash": tokenizer_hash(folder, only_json=not local),
        "config_hash": config_hash(folder, only_json=not local, code=config.trust_remote_code),
    }
    return {name: value for name, value in found.items() if value is not None}


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one commit forever."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _may_be_hub_id(model: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model) is not None
