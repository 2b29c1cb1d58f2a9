"""What sentence-transformers is told of a Transformer module beside the model's own files: `sentence_bert_config.json`.

Source: sentence-transformers 6.2, `Transformer.load`. A folder without modules.json has no such module, and there the
file is not read.
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
"""Names that the file has had; the first that is there counts, and no other is read."""

_OUTPUTS: Mapping[str, str] = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
"""Task -> what of the model's output goes on to the pooling."""

_OF_FILES = (
    *("trust_remote_code", "revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download"),
    *("use_cache", "attn_implementation", "dtype", "torch_dtype", "output_attentions", "output_hidden_states"),
)
"""Options for `config.json` that no vector depends on once it lies on disk."""

_PADDING = ("padding", "padding_side", "pad_to_multiple_of", "return_tensors")
"""Options of a call of the tokenizer that no vector depends on."""


@dataclass(frozen=True)
class Settings:
    """The settings of one Transformer; those of a folder without modules.json are all left out."""

    path: Path
    """The file, which need not be there."""
    task: str = "feature-extraction"
    """`transformer_task`."""
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """Options that win over tokenizer_config.json."""
    lowercase: bool = False
    """Whether texts are lower-cased first, where the tokenizer does not by itself."""
    config: dict[str, Any] = field(default_factory=dict)
    """Values that win over those in config.json."""
    max_length: int | None = None
    """`max_seq_length`, or the `model_max_length` among the tokenizer's options."""


def read_settings(folder: Path) -> Settings:
    """The settings of a Transformer module.

    Args:
      folder: of the module.

    Raises:
      UserError: if they cannot be read, or ask for something that is not implemented.
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
        raise UserError(f"{path}: max_seq_length is {length!r}; expected a whole number of at least 1, or null.")
    return Settings(
        path,
        task=task,
        tokenizer=tokenizer,
        lowercase=bool(content.get("do_lower_case")),
        config={key: value for key, value in config.items() if key not in _OF_FILES},
        max_length=length,
    )


def configured(hf: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """A `config.json` with the values that win over it.

    Args:
      hf: what the file holds.
      settings: of the module.

    Raises:
      UserError: if there is a value for something that the file does not have: releases of transformers differ in
        whether they obey it.
    """
    unknown = [key for key in settings.config if key not in hf]
    if unknown:
        raise UserError(
            f"{settings.path}: its config_kwargs give {unknown[0]} = {settings.config[unknown[0]]!r}, which "
            f"config.json does not have, so releases of transformers differ in obeying it. Write {unknown[0]} "
            "into it, or take it out."
        )
    return {**hf, **settings.config}


def _section(content: Mapping[str, Any], old: str, new: str, path: Path) -> dict[str, Any]:
    """A section under its first name or today's; where both are there, the first name's counts."""
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
            f"{path}: its modality_config has 'message', so that every text is put into the model's chat template, "
            "which is not supported. Take 'message' out if texts shall be read as they are, or give another model."
        )
    if (method, output, content.get("module_output_name")) != ("forward", expected, "token_embeddings"):
        raise UserError(
            f"{path}: its modality_config takes of a text {output!r} of {method!r} as "
            f"{content.get('module_output_name')!r}, which is not supported. Supported is {expected!r} of 'forward' as "
            "'token_embeddings'. Give a model that pools its last layer."
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
            f"{path}: has {found[0]}, which is not supported: texts are cut at max_seq_length tokens, special ones "
            "included, whatever they are for. Take it out, or give another model."
        )
