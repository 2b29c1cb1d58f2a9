"""Hashes of what determines a model's vectors: weights, tokenizer and config.

Hashes depend on content only: not on the folder's location, the formatting of JSON, or library versions noted in it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from jdistill.folders.files import read_json
from jdistill.folders.modules import all_modules

PICKLES = "pytorch_model*.bin"
"""Weights that are not safetensors."""

_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model", "*tokenizer*_config.json", "*vocab*"),
)
"""Files that determine tokens."""

_CONFIGURATION = (
    *("config.json", "sentence_*_config.json", "modules.json", "router_config.json"),
    *("wordembedding_config.json", "cnn_config.json", "lstm_config.json"),
)
"""Files that determine what is computed."""

_NO_MATTER = {
    *("transformers_version", "_name_or_path", "name_or_path", "__version__", "torch_dtype", "dtype", "_commit_hash"),
    *("prompts", "default_prompt_name", "similarity_fn_name"),
}
"""Keys that do not affect vectors or, such as prompts, are recorded separately."""


def weight_hash(folder: Path) -> str | None:
    """sha256 over the names and bytes of the model's safetensors files, else of its pickles; None if it has neither."""
    files = _matching(folder, "*.safetensors") or _matching(folder, PICKLES)
    return _hash(folder, files, _of_bytes) if files else None


def tokenizer_hash(folder: Path, *, only_json: bool = False) -> str | None:
    """sha256 over the names and content of the files that determine tokens; None if there are none.

    Args:
      folder: the model's folder.
      only_json: whether to hash JSON files only.
    """
    files = _matching(folder, *_TOKENIZER)
    files = {file for file in files if file.suffix == ".json" or not only_json}
    return _hash(folder, files, _of_content) if files else None


def config_hash(folder: Path, *, only_json: bool = False, code: bool = False) -> str | None:
    """sha256 over the names and content of the files that determine what is computed; None if there are none.

    If some weights are safetensors, `weight_hash` covers only those, so pickles of other modules are included here.

    Args:
      folder: the model's folder.
      only_json: whether to hash JSON files only.
      code: whether the folder's Python files are run, and so included.
    """
    files = _matching(folder, *_CONFIGURATION, *(["*.py"] if code else [])) - _matching(folder, *_TOKENIZER)
    if _matching(folder, "*.safetensors"):
        files |= {file for file in _matching(folder, PICKLES) if not any(file.parent.glob("*.safetensors"))}
    files = {file for file in files if file.suffix == ".json" or not only_json}
    return _hash(folder, files, _of_content) if files else None


def _matching(folder: Path, *patterns: str) -> set[Path]:
    """Files that match the patterns, in the folder and in those of its modules."""
    places = [folder, *(module.folder for module in all_modules(folder) if module.folder.is_dir())]
    return {file for place in places for pattern in patterns for file in place.glob(pattern) if file.is_file()}


def _hash(folder: Path, files: Iterable[Path], digest: Callable[[Path], str]) -> str:
    whole = hashlib.sha256()
    # `glob` gives files in the order of the file system.
    for file in sorted(files, key=lambda file: file.relative_to(folder).as_posix()):
        whole.update(f"{file.relative_to(folder).as_posix()} {digest(file)}\n".encode())
    return whole.hexdigest()


def _of_bytes(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_content(file: Path) -> str:
    """The hash of a config's relevant keys, independent of formatting; of other files, of their bytes."""
    if not file.name.endswith(("config.json", "_map.json")):
        return _of_bytes(file)
    content = {key: value for key, value in read_json(file).items() if key not in _NO_MATTER}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
