"""What decides a model's vectors, as hashes: its weights, its tokenizer, its configuration.

A hash follows content, not place: a folder that was moved keeps its own, and neither the layout of JSON nor the
versions of libraries noted in it count.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from jdistill.folders.files import read_json
from jdistill.folders.modules import all_modules

PICKLES = "pytorch_model*.bin"
"""Weights that are no safetensors."""

_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model", "*tokenizer*_config.json", "*vocab*"),
)
"""Files that decide tokens."""

_CONFIGURATION = (
    *("config.json", "sentence_*_config.json", "modules.json", "router_config.json"),
    *("wordembedding_config.json", "cnn_config.json", "lstm_config.json"),
)
"""Files that decide what is computed."""

_NO_MATTER = {
    *("transformers_version", "_name_or_path", "name_or_path", "__version__", "torch_dtype", "dtype", "_commit_hash"),
    *("prompts", "default_prompt_name", "similarity_fn_name"),
}
"""Keys that do not decide vectors, or, as prompts, are recorded by themselves."""


def weight_hash(folder: Path) -> str | None:
    """sha256 over the names and bytes of the model's safetensors files, else of its pickles; None if it has neither."""
    files = _matching(folder, "*.safetensors") or _matching(folder, PICKLES)
    return _hash(folder, files, _of_bytes) if files else None


def tokenizer_hash(folder: Path, *, only_json: bool = False) -> str | None:
    """sha256 over the names and content of the files that decide tokens; None if there are none.

    Args:
      folder: of the model.
      only_json: whether to leave out all files but JSON.
    """
    files = _matching(folder, *_TOKENIZER)
    files = {file for file in files if file.suffix == ".json" or not only_json}
    return _hash(folder, files, _of_content) if files else None


def config_hash(folder: Path, *, only_json: bool = False, code: bool = False) -> str | None:
    """sha256 over the names and content of the files that decide what is computed; None if there are none.

    Pickled weights of single modules are among them where others are safetensors, which alone `weight_hash` counts.

    Args:
      folder: of the model.
      only_json: whether to leave out all files but JSON.
      code: whether the folder's Python files are run, and so decide too.
    """
    files = _matching(folder, *_CONFIGURATION, *(["*.py"] if code else [])) - _matching(folder, *_TOKENIZER)
    if _matching(folder, "*.safetensors"):
        files |= {file for file in _matching(folder, PICKLES) if not any(file.parent.glob("*.safetensors"))}
    files = {file for file in files if file.suffix == ".json" or not only_json}
    return _hash(folder, files, _of_content) if files else None


def _matching(folder: Path, *patterns: str) -> set[Path]:
    """Files of these names in the folder and in those of its modules."""
    places = [folder, *(module.folder for module in all_modules(folder) if module.folder.is_dir())]
    return {file for place in places for pattern in patterns for file in place.glob(pattern) if file.is_file()}


def _hash(folder: Path, files: Iterable[Path], digest: Callable[[Path], str]) -> str:
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.relative_to(folder).as_posix()):
        whole.update(f"{file.relative_to(folder).as_posix()} {digest(file)}\n".encode())
    return whole.hexdigest()


def _of_bytes(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_content(file: Path) -> str:
    """Of settings what matters in them, however they are laid out; of other files the bytes."""
    if not file.name.endswith(("config.json", "_map.json")):
        return _of_bytes(file)
    content = {key: value for key, value in read_json(file).items() if key not in _NO_MATTER}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
