"""Transformer and MLMTransformer: the encoder with its tokenizer, in the format of transformers.

`sentence_bert_config.json` beside it holds settings of sentence-transformers. Without modules.json, as in a folder that
transformers alone wrote, it is not read.

Source: sentence-transformers 6.2, `Transformer.load`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.config import UserError
from jdistill.folders import modules_of, read_json, read_tensors, write_json, write_tensors
from jdistill.folders.refusals import transformers_in
from jdistill.student.encoders import MODEL_TYPES, masked_lm
from jdistill.student.hf_folder.modules.first import First
from jdistill.student.student import Student, to_hf_tensors
from jdistill.student.tokenizer_folder import read_tokenizer

CLASS = "sentence_transformers.models.Transformer"

MASKED_LM_CLASS = "sentence_transformers.sparse_encoder.models.MLMTransformer"
"""The encoder with its masked language model head, before SpladePooling."""

COUNT_PADDING = ("bert", "distilbert")
"""Encoders whose positions include padding on the left."""

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
    # `bool` is a subclass of `int`.
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


def tokenizer_settings(folder: Path) -> Settings | None:
    """The settings of a model's first Transformer; None if it has none.

    Args:
      folder: the model's folder.

    Raises:
      UserError: if they cannot be read.
    """
    places = transformers_in(folder)
    if not places:
        return None
    return read_settings(places[0]) if modules_of(folder) else Settings(places[0] / "config.json")


def read(folder: Path) -> First:
    """Read the module.

    Raises:
      UserError: if something is missing or not supported.
    """
    return read_plain(folder, read_settings(folder))


def read_plain(folder: Path, settings: Settings) -> First:
    """Read a folder in the format of transformers, with settings of sentence-transformers.

    Raises:
      UserError: if something is missing or not supported.
    """
    hf = read_json(folder / "config.json")
    if not hf:
        raise UserError(f"{folder}: has no config.json, so it is not a Hugging Face model.")
    hf = _configured(hf, settings)
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        raise UserError(
            f"{folder / 'config.json'}: model_type is {kind!r}, which is not supported. "
            f"Supported: {', '.join(MODEL_TYPES)}."
        )
    encoder = MODEL_TYPES[kind].from_hf(hf, where=str(folder / "config.json"))
    limit = settings.max_length
    tokenizer = read_tokenizer(
        folder, special_tokens=encoder.special_tokens, options=settings.tokenizer, lowercase=settings.lowercase
    )
    # As in sentence-transformers: max_seq_length is used unchanged, the tokenizer's limit is capped by config.json's.
    lengths = (limit, encoder.stored_positions) if limit else (tokenizer.model_max_length, encoder.max_positions)
    shortest = min((length for length in lengths if length is not None), default=None)
    return First(encoder, read_tensors(folder), tokenizer, shortest)


def check_task(folder: Path, *, sparse: bool) -> None:
    """Check that the output, vocabulary scores or hidden states, is what the pooling expects.

    Args:
      folder: the module's folder.
      sparse: whether the pooling gives sparse vectors.

    Raises:
      UserError: if it is not.
    """
    settings = read_settings(folder)
    expected = ("feature-extraction", "fill-mask") if sparse else ("feature-extraction",)
    if settings.task not in expected:
        raise UserError(
            f"{settings.path}: transformer_task is {settings.task!r}; expected {' or '.join(expected)} before this "
            "pooling."
        )


def write(student: Student, params: Mapping[str, Any], folder: Path) -> None:
    """Write encoder, tokenizer and settings."""
    _write(student, to_hf_tensors(student, params), student.config.encoder.to_hf(), folder)


def write_masked_lm(student: Student, params: Mapping[str, Any], folder: Path) -> None:
    """Write the module with the masked language model head, which is the parameters of the student's SPLADE."""
    encoder, own = student.config.encoder, params["pooling"]["0"]
    head = masked_lm(encoder, where="student.pooling: splade")
    # A model with a head has the encoder's tensors under its prefix, next to those of the head.
    tensors = {f"{encoder.hf_prefix}{name}": tensor for name, tensor in to_hf_tensors(student, params).items()}
    _write(student, {**tensors, **head.write(own)}, {**encoder.to_hf(), **head.config(own)}, folder)


def _write(student: Student, tensors: Mapping[str, np.ndarray], hf: Mapping[str, Any], folder: Path) -> None:
    config, limit = student.config, student.config.max_length
    # Padding on the left would shift the positions of these encoders; students are trained with padding on the right.
    side = "right" if config.encoder.kind in COUNT_PADDING else None
    student.tokenizer.save(folder, max_length=limit, padding_side=side)
    write_tensors(folder / "model.safetensors", tensors)
    # The name that all releases read; later ones also call it `dtype`.
    write_json(folder / "config.json", {**hf, "torch_dtype": "float32"})
    # If the model is uncased, the tokenizer itself lower-cases.
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})


def _configured(hf: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """A `config.json` with the overrides in the settings applied; only some releases of transformers add keys."""
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
