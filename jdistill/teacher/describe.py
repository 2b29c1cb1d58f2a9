"""Describes a teacher without loading it, to detect stores that were made with another teacher."""

import difflib
import re
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders import config_hash, tokenizer_hash, weight_hash
from jdistill.teacher.config import TeacherConfig


def describe(config: TeacherConfig) -> dict[str, Any]:
    """The fields of the description that the config determines, for `store.check_teacher`. Does not import torch.

    Omits what the model determines, and the hashes of files that are not on this machine.
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
        # The hub cache may have only some of a model's files, but has either all or none of its weights.
        fixed |= found if is_local(config) else {key: found[key] for key in found if key == "weight_hash"}
    if is_commit(config.revision):
        fixed["revision"] = config.revision
    return fixed


def find_folder(config: TeacherConfig) -> Path | None:
    """The model's local folder or its folder in the hub cache; None if there is neither."""
    if is_local(config):
        return Path(config.model).expanduser()
    if not _may_be_hub_id(config.model):
        return None
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(config.model, revision=config.revision, local_files_only=True))
    except (OSError, ValueError):  # not in the cache, or not an id
        return None


def is_local(config: TeacherConfig) -> bool:
    """Whether the configured model is a local folder rather than a hub id."""
    return Path(config.model).expanduser().is_dir()


def require_model(config: TeacherConfig, *, where: str) -> None:
    """Refuse a folder that does not exist; hub ids pass.

    Raises:
      UserError: with a suggestion.
    """
    path = Path(config.model).expanduser()
    if is_local(config) or _may_be_hub_id(config.model):
        return
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*") if p.is_dir()], n=1)
    hint = f"Did you mean '{path.parent / near[0]}'?" if near else "Expected an existing folder or a hub id."
    raise UserError(f"{where}: model '{config.model}': no such folder. {hint}")


def hashes(config: TeacherConfig, folder: Path) -> dict[str, str]:
    """Hashes of a teacher's weights, tokenizer and config files, if they exist.

    For hub snapshots, only weights and JSON files are hashed: `loading` fetches all of these, but maybe no others.
    """
    local = is_local(config)
    found = {
        "weight_hash": weight_hash(folder),
        "tokenizer_hash": tokenizer_hash(folder, only_json=not local),
        "config_hash": config_hash(folder, only_json=not local, code=config.trust_remote_code),
    }
    return {name: value for name, value in found.items() if value is not None}


def is_commit(revision: str | None) -> bool:
    """Whether a revision is an immutable commit hash."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _may_be_hub_id(model: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model) is not None
