"""Reading a Hugging Face or sentence-transformers folder of any generation: files in, one `Pretrained` out.

Weights are read from safetensors only. Nothing is unpickled, and no code that a folder brings along is run.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from jdistill.config import UserError
from jdistill.student.encoders import MODEL_TYPES, EncoderConfig, StaticConfig
from jdistill.student.head import Dense, Normalize
from jdistill.student.pooling import MODES, Mode
from jdistill.student.tokenizer import Tokenizer, truncation_in


@dataclass(frozen=True)
class Pretrained:
    """What a folder holds."""

    where: str
    encoder: EncoderConfig
    tensors: Mapping[str, np.ndarray]
    """The encoder's, as named in the file."""
    tokenizer: Tokenizer
    pooling: list[Mode]
    head: list[Normalize | Dense]
    head_params: dict[str, dict[str, np.ndarray]]
    """Index in `head` -> weights of that dense layer."""
    max_length: int | None
    prompts: dict[str, str]
    default_prompt_name: str | None
    truncate_dim: int | None
    is_sentence_transformer: bool


def locate(name: str, *, revision: str | None = None, tokenizer_only: bool = False) -> Path:
    """The folder itself, or that of a hub id, downloaded if need be: safetensors, tokenizer and configuration files.

    Raises:
      UserError: if there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"{name}: no such folder. Give a model's folder or its Hugging Face id, such as 'owner/model'.")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", *([] if tokenizer_only else ["*.safetensors"])]
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=["onnx/*", "openvino/*"]
            )
        )
    except Exception as error:  # network, cache, permissions, unknown id: all told by the library
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name}: no such folder, and the Hugging Face hub did not give it either ({reason}) "
            "Check the spelling, the connection and, for a gated model, your login."
        ) from error


def read_folder(folder: str | Path) -> Pretrained:
    """Everything a student can take over from a folder.

    Raises:
      UserError: if something is missing or of a kind that is not supported.
    """
    folder = Path(folder)
    listed = _json(folder / "modules.json")
    if not listed:
        return _plain(folder)
    modules = [(_module_name(folder, module), folder / module["path"]) for module in listed]
    first, path = modules[0]
    if first not in _FIRST:
        raise UserError(f"{folder / 'modules.json'}: begins with {first}; expected one of {', '.join(_FIRST)}.")
    settings = _json(folder / "config_sentence_transformers.json")
    rest = modules[1:]
    pooling: list[Mode] = ["mean"]
    if first == "Transformer":
        if not rest or rest[0][0] != "Pooling":
            raise UserError(f"{folder / 'modules.json'}: expected a Pooling module after the Transformer.")
        pooling, rest = _pooling(rest[0][1]), rest[1:]
    head, head_params = _head(folder, rest)
    return Pretrained(
        str(folder),
        **_FIRST[first](path),
        pooling=pooling,
        head=head,
        head_params=head_params,
        prompts=dict(settings.get("prompts") or {}),
        default_prompt_name=settings.get("default_prompt_name"),
        truncate_dim=settings.get("truncate_dim"),
        is_sentence_transformer=True,
    )


def _plain(folder: Path) -> Pretrained:
    """A folder of transformers alone: mean pooling, as sentence-transformers assumes then."""
    return Pretrained(
        str(folder),
        **_transformer(folder),
        pooling=["mean"],
        head=[],
        head_params={},
        prompts={},
        default_prompt_name=None,
        truncate_dim=None,
        is_sentence_transformer=False,
    )


def _transformer(folder: Path) -> dict[str, Any]:
    """Encoder, tensors, tokenizer and length of a Transformer module."""
    hf = _json(folder / "config.json")
    if not hf:
        raise UserError(f"{folder}: has no config.json, so it is not a Hugging Face model.")
    kind = hf.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"{folder / 'config.json'}: model_type is {kind!r}, which is not supported. "
            f"Supported: {', '.join(MODEL_TYPES)}."
        )
    encoder = MODEL_TYPES[kind].from_hf(hf, where=str(folder / "config.json"))
    settings = next(filter(None, map(_json, sorted(folder.glob("sentence_*_config.json")))), {})
    tokenizer = Tokenizer.from_folder(
        folder, special_tokens=encoder.special_tokens, lowercase=bool(settings.get("do_lower_case"))
    )
    lengths = (settings.get("max_seq_length") or tokenizer.model_max_length, encoder.max_positions)
    return {
        "encoder": encoder,
        "tensors": read_tensors(folder),
        "tokenizer": tokenizer,
        "max_length": min((length for length in lengths if length is not None), default=None),
    }


def _static(folder: Path) -> dict[str, Any]:
    """The same of a StaticEmbedding module; what model2vec keeps apart (`mapping`, `weights`) becomes one table."""
    tensors = dict(read_tensors(folder))
    if "embeddings" in tensors:
        table = tensors.pop("embeddings")
        table = table[tensors.pop("mapping")] if "mapping" in tensors else table
        table = table * tensors.pop("weights")[:, None] if "weights" in tensors else table
        tensors["embedding.weight"] = table
    shape = tensors.get("embedding.weight", np.zeros((1, 1))).shape
    return {
        "encoder": StaticConfig(vocab_size=shape[0], hidden_size=shape[1]),
        "tensors": tensors,
        "tokenizer": Tokenizer.from_folder(folder, special_tokens=False),
        "max_length": truncation_in(folder),
    }


_FIRST = {"Transformer": _transformer, "StaticEmbedding": _static}


def _module_name(folder: Path, module: Mapping[str, Any]) -> str:
    package, _, name = str(module["type"]).rpartition(".")
    supported = (*_FIRST, "Pooling", "Normalize", "Dense")
    if package.split(".")[0] != "sentence_transformers" or name not in supported:
        raise UserError(
            f"{folder / 'modules.json'}: module {module.get('name')!r} is a {module['type']}, which is not supported. "
            f"Supported: {', '.join(supported)} of sentence_transformers."
        )
    if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
        raise UserError(f"{folder / 'modules.json'}: path {module['path']!r} leads out of the folder.")
    return name


POOLING_KEYS: dict[str, Mode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of releases before 5.4, in the order in which they concatenate."""


def _pooling(folder: Path) -> list[Mode]:
    path = folder / "config.json"
    config = _json(path)
    if config.get("include_prompt", True) is False:
        raise UserError(f"{path}: include_prompt is false; pooling without the prompt's tokens is not supported.")
    if "pooling_mode" not in config:
        return [mode for key, mode in POOLING_KEYS.items() if config.get(key)] or ["mean"]
    listed = config["pooling_mode"]
    names = [name.removesuffix("_tokens") for name in ([listed] if isinstance(listed, str) else listed)]
    modes: list[Mode] = [mode for name in names for mode in MODES if mode == name]
    if len(modes) != len(names) or not modes:
        raise UserError(f"{path}: pooling_mode is {listed!r}; supported: {', '.join(MODES)}.")
    return modes


_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.Tanh": "tanh",
}


def _head(
    folder: Path, modules: list[tuple[str, Path]]
) -> tuple[list[Normalize | Dense], dict[str, dict[str, np.ndarray]]]:
    head: list[Normalize | Dense] = []
    params: dict[str, dict[str, np.ndarray]] = {}
    for i, (name, path) in enumerate(modules):
        if name == "Normalize":
            head.append(Normalize())
        elif name == "Dense":
            module, params[str(i)] = _dense(path)
            head.append(module)
        else:
            raise UserError(
                f"{folder / 'modules.json'}: {name} stands behind the pooling. Expected Normalize or Dense."
            )
    return head, params


def _dense(folder: Path) -> tuple[Dense, dict[str, np.ndarray]]:
    path = folder / "config.json"
    config = _json(path)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS or config.get("use_residual"):
        what = "use_residual is true" if config.get("use_residual") else f"activation_function is {activation!r}"
        raise UserError(f"{path}: {what}, which is not supported. Supported are Identity and Tanh, without residual.")
    tensors = read_tensors(folder)
    bias = bool(config.get("bias", True))
    expected = {"linear.weight", *(["linear.bias"] if bias else [])}
    if set(tensors) != expected:
        raise UserError(f"{folder}: holds tensors {sorted(tensors)}, expected {sorted(expected)}.")
    params = {"kernel": np.ascontiguousarray(tensors["linear.weight"].T, np.float32)}
    if bias:
        params["bias"] = tensors["linear.bias"].astype(np.float32)
    inputs, outputs = params["kernel"].shape
    kind = "tanh" if _ACTIVATIONS[activation] == "tanh" else "identity"
    return Dense(in_features=inputs, out_features=outputs, bias=bias, activation=kind), params


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder's safetensors, in one file or several with an index.

    Raises:
      UserError: if there are none; pickled weights are refused.
    """
    index = _json(folder / "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing and not index and (folder / "pytorch_model.bin").is_file():
        raise UserError(
            f"{folder}: has its weights as pytorch_model.bin only, a pickle, which can run any code when it is read. "
            "Convert it where you trust it: AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    if missing:
        raise UserError(f"{folder}: has no {', '.join(missing)}. Weights are read from safetensors files only.")
    return dict(item for name in files for item in _tensors(folder / name))


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with safe_open(str(path), framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            yield key, file.get_tensor(key)


def _json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from error
