"""Finds a model's folder: on disk, in the Hugging Face cache, or on the hub."""

import re
from pathlib import Path

from jdistill.config import UserError


def locate(name: str, *, revision: str | None = None, tokenizer_only: bool = False) -> Path:
    """The folder itself, or the local folder of a hub id, downloaded if necessary.

    Downloads tokenizer and config files, and weights as safetensors, or as pickles if there are no others.

    Raises:
      UserError: if there is no such folder, and the download fails.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    # A mistyped path is refused here, before the hub answers with an error about ids.
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"{name}: no such folder. Set a model's folder or a Hugging Face id, such as 'owner/model'.")
    from huggingface_hub import snapshot_download

    def fetched(*patterns: str) -> Path:
        others = ["onnx/*", "openvino/*"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*patterns], ignore_patterns=others))

    small = ("*.json", "*.txt", "*.model")
    try:
        if tokenizer_only:
            return fetched(*small)
        folder = fetched(*small, "*.safetensors")
        if any(folder.rglob("*.safetensors")):
            return folder
        return fetched(*small, "pytorch_model*.bin", "*/pytorch_model.bin")
    except Exception as error:  # network, cache, permissions, unknown id: the library's message says which
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name}: no such folder, and downloading it from the Hugging Face hub failed ({reason}) "
            "Check the spelling, the connection and, for a gated model, your login."
        ) from error


def at_hand(name: str, *, revision: str | None = None) -> Path | None:
    """The folder itself, or the cached folder of a hub id; None if it is not cached. Downloads nothing."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
