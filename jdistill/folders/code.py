"""Checks whether loading a folder with sentence-transformers or transformers would run third-party code.

Releases differ in what they execute without asking: sentence-transformers 5.1 imports classes named in modules.json
from Python files of a local folder, and calls whatever a Dense module names as its activation. So the files are checked
here before the libraries see them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.folders.files import read_json
from jdistill.folders.modules import Module, all_modules

LIBRARY = "sentence_transformers"

KNOWN = (
    *("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "StaticEmbedding", "Router", "Asym"),
    *("WordEmbeddings", "BoW", "CNN", "LSTM", "WordWeights", "WeightedLayerPooling"),
)
"""Classes of sentence-transformers in models with dense text vectors."""

_ARGUMENTS = ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs")
"""Sections of a Transformer module's settings that are passed to transformers unchanged."""


def refuse_foreign_code(folder: Path, *, where: str) -> None:
    """Reject a folder whose loading would import code from outside the two libraries.

    Code named by `auto_map` in `config.json` or the tokenizer's settings is not checked: transformers runs it only with
    `trust_remote_code`, which sentence-transformers passes on unchanged.

    Args:
      folder: the model's folder.
      where: the config key, for error messages.

    Raises:
      UserError: if it would import such code.
    """
    for module in all_modules(folder):
        for found in _foreign(module):
            raise UserError(
                f"{where}: {folder}: requires code that is not part of sentence-transformers or transformers: {found}. "
                "Set trust_remote_code: true if you trust the model's authors, or choose another model."
            )
    for found in _kernels(folder):
        raise UserError(
            f"{where}: {folder}: {found}, a kernel from the hub. Remove the entry, or, if you trust its "
            "authors, set trust_remote_code: true."
        )


def _foreign(module: Module) -> Iterator[str]:
    if module.package != LIBRARY or module.cls not in KNOWN:
        yield f"module {module.name!r} is a {module.type}"
    config = read_json(module.folder / "config.json")
    if module.cls == "Dense":
        activation = config.get("activation_function", "torch.nn.Tanh")
        if not str(activation).startswith("torch.nn."):
            yield f"module {module.name!r} has the activation {activation}"
    if module.cls == "WordEmbeddings":
        path = module.folder / "wordembedding_config.json"
        tokenizer = str((read_json(path) or config).get("tokenizer_class", f"{LIBRARY}."))
        if not tokenizer.startswith(f"{LIBRARY}."):
            yield f"module {module.name!r} has the tokenizer {tokenizer}"
    if module.cls == "Transformer":
        yield from _kernels(module.folder)


def _kernels(folder: Path) -> Iterator[str]:
    """Attention implementations named like a hub repository, which transformers would download and run."""
    for path in (folder / "config.json", *sorted(folder.glob("sentence_*_config.json"))):
        content = read_json(path)
        for section in (content, *(content.get(name) for name in _ARGUMENTS)):
            for key in ("attn_implementation", "_attn_implementation"):
                value = section.get(key) if isinstance(section, dict) else None
                if any("/" in str(part) for part in _values(value)):
                    yield f"{path.name} has {key} {value!r}"


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]
