"""Reads Hugging Face and sentence-transformers folders of any release into a `Pretrained`.

Weights are read from safetensors, or from pickles without executing them. No code in the folder is run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.config import UserError
from jdistill.folders import Module, modules_of, read_json, read_tensors, refuse_what_no_student_reads
from jdistill.folders.prompts import prompts_of
from jdistill.folders.refusals import transformers_in
from jdistill.student.encoders import MODEL_TYPES, EncoderConfig, StaticConfig
from jdistill.student.head import Head
from jdistill.student.hf_modules import (
    HEAD_MODULES,
    STOCK_POOLINGS,
    Known,
    by_type,
    read_head,
    read_pooling,
)
from jdistill.student.hf_settings import Settings, configured, read_settings
from jdistill.student.pooling import Pooling, PoolingModule, is_sparse, pooled_width
from jdistill.student.tokenizer import Tokenizer, truncation_in
from jdistill.student.tokenizer_folder import read_tokenizer


@dataclass(frozen=True)
class Pretrained:
    """The content of a model's folder."""

    where: str
    encoder: EncoderConfig
    tensors: Mapping[str, np.ndarray]
    """Tensors of the encoder, as named in the file."""
    tokenizer: Tokenizer
    pooling: list[Pooling]
    pooling_params: dict[str, Any]
    """Index in `pooling` -> parameters of that pooling, if its module has any."""
    include_prompt: bool
    """Whether the modes of `pooling` pool the tokens of the prompt."""
    head: list[Head]
    head_params: dict[str, dict[str, np.ndarray]]
    """Index in `head` -> parameters of that module, if it has any."""
    max_length: int | None
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity_fn_name: str | None
    truncate_dim: int | None
    is_sentence_transformer: bool


def locate(name: str, *, revision: str | None = None, tokenizer_only: bool = False) -> Path:
    """The folder itself, or the local folder of a hub id, downloaded if necessary.

    Downloads tokenizer and config files, and weights as safetensors, or as pickles if there are no others.

    Raises:
      UserError: if there is no such folder, and the download fails.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
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


def read_folder(folder: str | Path, poolings: Sequence[Pooling | type[PoolingModule]] = ()) -> Pretrained:
    """Read everything that a student can take from a folder.

    Args:
      folder: of the model.
      poolings: of other packages, which the folder may hold. It never has anything imported by itself.

    Raises:
      UserError: if something is missing or not supported.
    """
    folder = Path(folder)
    refuse_what_no_student_reads(folder)
    listed = modules_of(folder)
    if not listed:
        return _plain(folder)
    known = by_type(poolings)
    modules = [(_module_name(folder, module, known), module.folder) for module in listed]
    first, path = modules[0]
    if first not in _FIRST:
        raise UserError(f"{folder / 'modules.json'}: the first module is {first}; expected one of {', '.join(_FIRST)}.")
    settings = read_json(folder / "config_sentence_transformers.json")
    begun = _FIRST[first](path)
    pooling, params, rest = _poolings(folder, modules[1:], begun["encoder"], known)
    stock = [path for name, path in modules[1:] if name == STOCK_POOLINGS[0]]
    _check_task(path, pooling)
    head, head_params = _head(folder, rest)
    return Pretrained(
        str(folder),
        **begun,
        pooling=pooling,
        pooling_params=params,
        include_prompt=all(read_json(path / "config.json").get("include_prompt", True) for path in stock),
        head=head,
        head_params=head_params,
        prompts=prompts_of(settings, where=folder / "config_sentence_transformers.json"),
        default_prompt_name=settings.get("default_prompt_name"),
        similarity_fn_name=settings.get("similarity_fn_name"),
        truncate_dim=_positive(settings, "truncate_dim", folder / "config_sentence_transformers.json"),
        is_sentence_transformer=True,
    )


def _positive(settings: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = settings.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{path}: {key} is {value!r}; expected an integer >= 1, or null.")
    return value


def _plain(folder: Path) -> Pretrained:
    """A plain transformers folder, pooled as in sentence-transformers: the last token for causal models, else mean."""
    hf = read_json(folder / "config.json")
    classes = hf.get("architectures") or [""]
    causal = str(classes[0]).endswith("ForCausalLM") and hf.get("is_causal", True)
    return Pretrained(
        str(folder),
        **_with_settings(folder, Settings(folder / "config.json")),
        pooling=["lasttoken" if causal else "mean"],
        pooling_params={},
        include_prompt=True,
        head=[],
        head_params={},
        prompts={},
        default_prompt_name=None,
        similarity_fn_name=None,
        truncate_dim=None,
        is_sentence_transformer=False,
    )


def _transformer(folder: Path) -> dict[str, Any]:
    return _with_settings(folder, read_settings(folder))


def _with_settings(folder: Path, settings: Settings) -> dict[str, Any]:
    """Encoder, tensors, tokenizer and maximum length of a Transformer module."""
    hf = read_json(folder / "config.json")
    if not hf:
        raise UserError(f"{folder}: has no config.json, so it is not a Hugging Face model.")
    hf = configured(hf, settings)
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
    return {
        "encoder": encoder,
        "tensors": read_tensors(folder),
        "tokenizer": tokenizer,
        "max_length": min((length for length in lengths if length is not None), default=None),
    }


def tokenizer_settings(folder: Path) -> Settings | None:
    """The sentence-transformers settings of a model's first Transformer; None if it has none.

    Raises:
      UserError: if they cannot be read.
    """
    places = transformers_in(folder)
    if not places:
        return None
    return read_settings(places[0]) if modules_of(folder) else Settings(places[0] / "config.json")


def _static(folder: Path) -> dict[str, Any]:
    """The same for a StaticEmbedding module; model2vec's `mapping` and `weights` are merged into the table."""
    tensors = dict(read_tensors(folder))
    if "embeddings" in tensors:
        table = tensors.pop("embeddings")
        try:
            table = table[tensors.pop("mapping")] if "mapping" in tensors else table
            table = table * tensors.pop("weights")[:, None] if "weights" in tensors else table
        except (IndexError, ValueError) as error:
            raise UserError(f"{folder}: shapes of embeddings, mapping and weights do not match: {error}.") from error
        tensors["embedding.weight"] = table
    shape = tensors.get("embedding.weight", np.zeros((1, 1))).shape
    if len(shape) != 2:
        raise UserError(f"{folder}: its embeddings have the shape {shape}; expected [tokens, width].")
    return {
        "encoder": StaticConfig(vocab_size=shape[0], hidden_size=shape[1]),
        "tensors": tensors,
        "tokenizer": Tokenizer.from_folder(folder, special_tokens=False),
        "max_length": truncation_in(folder),
    }


_FIRST = {"Transformer": _transformer, "MLMTransformer": _transformer, "StaticEmbedding": _static}


def _module_name(folder: Path, module: Module, known: Mapping[str, Known]) -> str:
    """A class of sentence-transformers, or a key of `known`."""
    if module.type in known:
        return module.type
    name = module.type.rpartition(".")[2]
    supported = (*_FIRST, *STOCK_POOLINGS, *HEAD_MODULES)
    if module.package != "sentence_transformers" or name not in supported:
        raise UserError(
            f"{folder / 'modules.json'}: module {module.name!r} is a {module.type}, which is not supported. "
            f"Supported: {', '.join(supported)} of sentence_transformers, and the modules of jdistill's exports. A "
            "pooling of another package is read if the recipe names it under student.pooling, or with "
            "jdistill.load(..., poolings=[ItsClass])."
        )
    return name


Named = list[tuple[str, Path]]
"""Class and folder of each module."""


def _poolings(
    folder: Path, modules: Named, encoder: EncoderConfig, known: Mapping[str, Known]
) -> tuple[list[Pooling], dict[str, Any], Named]:
    """The poolings, their parameters, and the modules that follow."""
    if encoder.kind == "static":
        return ["mean"], {}, modules
    pooling: list[Pooling] = []
    params: dict[str, Any] = {}
    rest = list(modules)
    # Poolings with a module file append to the vector; a second pooling of sentence-transformers would replace it.
    while rest and (rest[0][0] in known or (not pooling and rest[0][0] in STOCK_POOLINGS)):
        name, path = rest.pop(0)
        listed, weights = read_pooling(name, path, encoder, known, before=pooled_width(pooling, encoder))
        if weights is not None:
            params[str(len(pooling))] = weights
        pooling += listed
    if not pooling:
        raise UserError(f"{folder / 'modules.json'}: expected a Pooling module after the Transformer.")
    return pooling, params, rest


def _check_task(folder: Path, pooling: list[Pooling]) -> None:
    """Check that the transformer's output, vocabulary scores or hidden states, is what the pooling expects."""
    settings = read_settings(folder)
    expected = ("feature-extraction", "fill-mask") if is_sparse(pooling) else ("feature-extraction",)
    if settings.task not in expected:
        raise UserError(
            f"{settings.path}: transformer_task is {settings.task!r}; expected {' or '.join(expected)} before this "
            "pooling."
        )


def _head(folder: Path, modules: Named) -> tuple[list[Head], dict[str, dict[str, np.ndarray]]]:
    head: list[Head] = []
    params: dict[str, dict[str, np.ndarray]] = {}
    for i, (name, path) in enumerate(modules):
        if name not in HEAD_MODULES:
            raise UserError(
                f"{folder / 'modules.json'}: {name} follows the pooling. Expected {' or '.join(HEAD_MODULES)}."
            )
        module, weights = read_head(name, path)
        head.append(module)
        if weights:
            params[str(i)] = weights
    return head, params
