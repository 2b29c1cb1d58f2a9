"""Reads a folder of any release of sentence-transformers or transformers into a `Pretrained`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from jdistill.config import UserError
from jdistill.folders import Module, modules_of, read_json, refuse_what_no_student_reads
from jdistill.folders.prompts import prompts_of
from jdistill.student.encoders import EncoderConfig
from jdistill.student.head import Head
from jdistill.student.hf_folder.modules import dense, layer_norm, normalize, static_embedding, transformer
from jdistill.student.hf_folder.modules import parametric_pooling as parametric
from jdistill.student.hf_folder.modules import pooling as by_mode
from jdistill.student.hf_folder.modules.parametric_pooling import Known, known_poolings
from jdistill.student.pooling import Pooling, PoolingModule, Splade, is_sparse, pooled_width
from jdistill.student.tokenizer import Tokenizer

FIRST = {
    "Transformer": transformer.read,
    "MLMTransformer": transformer.read,
    "StaticEmbedding": static_embedding.read,
}
"""Class of sentence-transformers that may come first -> function that reads it."""

POOLINGS = ("Pooling", Splade.module)
"""Pooling classes of sentence-transformers."""

HEAD = {"Normalize": normalize.read, "Dense": dense.read, "LayerNorm": layer_norm.read}
"""Class of sentence-transformers that may follow the pooling -> function that reads it."""

Named = list[tuple[str, Path]]
"""Class and folder of each module; the class of sentence-transformers, or a key of `known_poolings`."""


@dataclass(frozen=True)
class Pretrained:
    """The content of a model's folder."""

    where: str
    encoder: EncoderConfig
    tensors: Mapping[str, np.ndarray]
    """Tensors of the encoder, as named in the file."""
    tokenizer: Tokenizer
    max_length: int | None
    pooling: list[Pooling]
    pooling_params: dict[str, Any] = field(default_factory=dict)
    """Index in `pooling` -> parameters of that pooling, if its module has any."""
    include_prompt: bool = True
    """Whether the modes of `pooling` pool the tokens of the prompt."""
    head: list[Head] = field(default_factory=list)
    head_params: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """Index in `head` -> parameters of that module, if it has any."""
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None
    is_sentence_transformer: bool = False


def read_folder(folder: str | Path, poolings: Sequence[Pooling | type[PoolingModule]] = ()) -> Pretrained:
    """Read everything that a student can take from a folder.

    Args:
      folder: of the model.
      poolings: of other packages, which the folder may hold. It never has anything imported by itself.

    Raises:
      UserError: if something is missing or not supported.
    """
    folder = Path(folder)
    # First, so that such a folder is refused for its actual reason, not for the first file that does not parse.
    refuse_what_no_student_reads(folder)
    listed = modules_of(folder)
    if not listed:
        return _plain(folder)
    known = known_poolings(poolings)
    (name, path), *rest = [(_class_of(module, known, folder), module.folder) for module in listed]
    if name not in FIRST:
        raise UserError(f"{folder / 'modules.json'}: the first module is {name}; expected one of {', '.join(FIRST)}.")
    where = folder / "config_sentence_transformers.json"
    settings = read_json(where)
    first = FIRST[name](path)
    pooling, pooling_params, include_prompt, rest = _poolings(rest, first.encoder, known, folder)
    transformer.check_task(path, sparse=is_sparse(pooling))
    head, head_params = _head(rest, folder)
    return Pretrained(
        str(folder),
        **first._asdict(),
        pooling=pooling,
        pooling_params=pooling_params,
        include_prompt=include_prompt,
        head=head,
        head_params=head_params,
        prompts=prompts_of(settings, where=where),
        default_prompt_name=settings.get("default_prompt_name"),
        similarity_fn_name=settings.get("similarity_fn_name"),
        truncate_dim=_truncate_dim(settings, where),
        is_sentence_transformer=True,
    )


def _plain(folder: Path) -> Pretrained:
    """A plain transformers folder, pooled as in sentence-transformers: the last token for causal models, else mean."""
    hf = read_json(folder / "config.json")
    classes = hf.get("architectures") or [""]
    causal = str(classes[0]).endswith("ForCausalLM") and hf.get("is_causal", True)
    first = transformer.read_plain(folder, transformer.Settings(folder / "config.json"))
    return Pretrained(str(folder), **first._asdict(), pooling=["lasttoken" if causal else "mean"])


def _class_of(module: Module, known: Mapping[str, Known], folder: Path) -> str:
    if module.type in known:
        return module.type
    supported = (*FIRST, *POOLINGS, *HEAD)
    if module.package != "sentence_transformers" or module.cls not in supported:
        raise UserError(
            f"{folder / 'modules.json'}: module {module.name!r} is a {module.type}, which is not supported. "
            f"Supported: {', '.join(supported)} of sentence_transformers, and the modules of jdistill's exports. A "
            "pooling of another package is read if the recipe names it under student.pooling, or with "
            "jdistill.load(..., poolings=[ItsClass])."
        )
    return module.cls


def _poolings(
    modules: Named, encoder: EncoderConfig, known: Mapping[str, Known], folder: Path
) -> tuple[list[Pooling], dict[str, Any], bool, Named]:
    """The poolings, their parameters by index, whether modes pool the prompt, and the modules that follow."""
    # StaticEmbedding averages by itself, without a Pooling module.
    if encoder.kind == "static":
        return ["mean"], {}, True, modules
    pooling: list[Pooling] = []
    params: dict[str, Any] = {}
    include_prompt, rest = True, list(modules)
    # Poolings with a module file append to the vector; a second pooling of sentence-transformers would replace it.
    while rest and (rest[0][0] in known or (not pooling and rest[0][0] in POOLINGS)):
        name, path = rest.pop(0)
        if name == "Pooling":
            modes, include_prompt = by_mode.read(path)
            pooling += modes
            continue
        # Besides Pooling it is the only class of sentence-transformers in `POOLINGS`.
        found = known.get(name, Splade)
        module, weights = parametric.read(found, path, encoder, before=pooled_width(pooling, encoder))
        if weights is not None:
            params[str(len(pooling))] = weights
        pooling.append(cast(Pooling, module))
    if not pooling:
        raise UserError(f"{folder / 'modules.json'}: expected a Pooling module after the Transformer.")
    return pooling, params, include_prompt, rest


def _head(modules: Named, folder: Path) -> tuple[list[Head], dict[str, dict[str, np.ndarray]]]:
    """The modules after the pooling, and the parameters by index of those that have any."""
    head: list[Head] = []
    params: dict[str, dict[str, np.ndarray]] = {}
    for i, (name, path) in enumerate(modules):
        if name not in HEAD:
            raise UserError(f"{folder / 'modules.json'}: {name} follows the pooling. Expected {' or '.join(HEAD)}.")
        module, weights = HEAD[name](path)
        head.append(module)
        if weights:
            params[str(i)] = weights
    return head, params


def _truncate_dim(settings: Mapping[str, Any], path: Path) -> int | None:
    value = settings.get("truncate_dim")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{path}: truncate_dim is {value!r}; expected an integer >= 1, or null.")
    return value
