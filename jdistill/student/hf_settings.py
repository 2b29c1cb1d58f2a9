"""sentence-transformers' settings of a Transformer module: `sentence_bert_config.json`.

Source: sentence-transformers 6.2, `Transformer.load`. The file is not read in folders without modules.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders import read_json

FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Possible names of the file; only the first that exists is read."""

_OUTPUTS: Mapping[str, str] = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
"""Task -> which output of the model is pooled."""

_OF_FILES = (
    *("trust_remote_code", "revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download"),
    *("use_cache", "attn_implementation", "dtype", "torch_dtype", "output_attentions", "output_hidden_states"),
)
"""Options for loading that do not affect vectors of a local model."""

_PADDING = ("padding", "padding_side", "pad_to_multiple_of", "return_tensors")
"""Tokenizer call options that do not affect vectors."""


@dataclass(frozen=True)
class Settings:
    """The settings of one Transformer; all defaults for a folder without modules.json."""

    path: Path
    """The file; may not exist."""
    task: str = "feature-extraction"
    """`transformer_task`."""
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """Overrides of tokenizer_config.json."""
    lowercase: bool = False
    """Whether texts are lower-cased first, unless the tokenizer does it."""
    config: dict[str, Any] = field(default_factory=dict)
    """Overrides of config.json."""
    max_length: int | None = None
    """`max_seq_length`, or `model_max_length` in `tokenizer`."""


def read_settings(folder: Path) -> Settings:
    """Read the settings of a Transformer module.

    Args:
      folder: the module's folder.

    Raises:
      UserError: if they cannot be read, or an option is not supported.
    """
    path, content = next(
        ((folder / name, content) for name in FILES if (content := read_json(folder / name))), (folder / FILES[0], {})
    )
    task = content.get("transformer_task", "feature-extraction")
    _check_modalities(content, task, path)
    _check_calls(content, path)
    tokenizer = _section(content, "tokenizer_args", "processor_kwargs", path)
    config = _section(content, "config_args", "config_kwargs", path)
    length = tokenizer.get("model_max_length") or content.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise UserError(f"{path}: max_seq_length is {length!r}; expected an integer >= 1, or null.")
    return Settings(
        path,
        task=task,
        tokenizer=tokenizer,
        lowercase=bool(content.get("do_lower_case")),
        config={key: value for key, value in config.items() if key not in _OF_FILES},
        max_length=length,
    )


def configured(hf: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """A `config.json` with the module's overrides applied.

    Args:
      hf: content of the file.
      settings: settings of the module.

    Raises:
      UserError: if a key is not in the file, since only some releases of transformers apply such overrides.
    """
    unknown = [key for key in settings.config if key not in hf]
    if unknown:
        raise UserError(
            f"{settings.path}: config_kwargs sets {unknown[0]} = {settings.config[unknown[0]]!r}, which config.json "
            f"does not have; only some releases of transformers apply it. Add {unknown[0]} to config.json, or remove "
            "it from config_kwargs."
        )
    return {**hf, **settings.config}


def _section(content: Mapping[str, Any], old: str, new: str, path: Path) -> dict[str, Any]:
    """A section under its old or new name; the old name takes precedence."""
    name = old if old in content else new
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise UserError(f"{path}: {name} is {section!r}; expected an object of options.")
    return section


def _check_modalities(content: Mapping[str, Any], task: Any, path: Path) -> None:
    modalities = content.get("modality_config")
    if modalities is None:
        return
    text = modalities.get("text") if isinstance(modalities, dict) else None
    method, output = (text.get("method"), text.get("method_output_name")) if isinstance(text, dict) else (None, None)
    output = output[0] if isinstance(output, list) and len(output) == 1 else output
    expected = _OUTPUTS.get(str(task), "last_hidden_state")
    if "message" in modalities:
        raise UserError(
            f"{path}: modality_config has 'message', so every text would be formatted with the model's chat template, "
            "which is not supported. Remove 'message' to read texts without it, or choose another model."
        )
    if (method, output, content.get("module_output_name")) != ("forward", expected, "token_embeddings"):
        raise UserError(
            f"{path}: modality_config for text uses {output!r} of {method!r} as "
            f"{content.get('module_output_name')!r}, which is not supported. Supported is {expected!r} of 'forward' as "
            "'token_embeddings'. Choose a model that pools its last layer."
        )


def _check_calls(content: Mapping[str, Any], path: Path) -> None:
    calls = content.get("processing_kwargs") or {}
    sections = [calls.get(name) or {} for name in ("common", "text")] if isinstance(calls, dict) else [calls]
    found = [f"processing_kwargs {section}" for section in sections if not isinstance(section, dict)]
    found += [
        f"processing_kwargs {key} = {value!r}"
        for section in sections
        if isinstance(section, dict)
        for key, value in section.items()
        if key not in _PADDING
    ]
    lengths = ("query_length", "document_length", "query_expansion")
    found += [f"{key} = {content[key]!r}" for key in lengths if content.get(key) is not None]
    if found:
        raise UserError(
            f"{path}: has {found[0]}, which is not supported: all texts are truncated to max_seq_length tokens, "
            "special tokens included. Remove it, or choose another model."
        )
