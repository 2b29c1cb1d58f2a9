"""Pooling: the modes without parameters, such as mean, in `config.json`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders import read_json, write_json
from jdistill.student.pooling import MODES, Mode

CLASS = "sentence_transformers.models.Pooling"

POOLING_KEYS: dict[str, Mode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of releases before 5.4, in the order of concatenation."""

_OTHER_KEYS = ("pooling_mode", "embedding_dimension", "word_embedding_dimension", "include_prompt", "__version__")


def read(folder: Path) -> tuple[list[Mode], bool]:
    """The modes, in the order of concatenation, and whether they pool the tokens of the prompt.

    Raises:
      UserError: if `config.json` is missing, or has an option that is not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{path}: is missing, but modules.json lists this Pooling, so the pooling is unknown. The copy or download "
            "may have been interrupted. Copy or download the model again."
        )
    config = read_json(path)
    # Keys of unknown modes count only where they are on: writers list all modes they know, most of them false.
    unknown = [key for key, value in config.items() if value and key not in (*POOLING_KEYS, *_OTHER_KEYS)]
    if unknown:
        raise UserError(
            f"{path}: has {unknown[0]} = {config[unknown[0]]!r}, which is not supported. Supported are the modes "
            f"{', '.join(MODES)}, include_prompt and the width. Choose another model."
        )
    include_prompt = bool(config.get("include_prompt", True))
    if "pooling_mode" not in config:
        return [mode for key, mode in POOLING_KEYS.items() if config.get(key)] or ["mean"], include_prompt
    listed = config["pooling_mode"]
    # sentence-transformers 5.4 calls one mode `mean_sqrt_len_tokens`.
    names = [name.removesuffix("_tokens") for name in ([listed] if isinstance(listed, str) else listed)]
    modes: list[Mode] = [mode for name in names for mode in MODES if mode == name]
    if len(modes) != len(names) or not modes:
        raise UserError(f"{path}: pooling_mode is {listed!r}; supported: {', '.join(MODES)}.")
    return modes, include_prompt


def write(modes: Sequence[Mode], width: int, folder: Path, *, include_prompt: bool) -> None:
    """Write the module; uses the format of 5.4 only if the old keys cannot express the order of the modes."""
    if list(modes) == [mode for mode in POOLING_KEYS.values() if mode in modes]:
        chosen: dict[str, Any] = {key: mode in modes for key, mode in POOLING_KEYS.items()}
    else:
        chosen = {"pooling_mode": [{"mean_sqrt_len": "mean_sqrt_len_tokens"}.get(mode, mode) for mode in modes]}
    config = {"word_embedding_dimension": width, **chosen, "include_prompt": include_prompt}
    write_json(folder / "config.json", config)
