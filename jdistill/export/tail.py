"""Writes pooling and head as modules of an export, using sentence-transformers' own modules where they exist.

A pooling that sentence-transformers does not have names a class in a file of plain torch (ours is
`modules/jdistill_pooling.py`) that is copied into the folder's root and does not depend on jdistill. With several
poolings, sentence-transformers' Pooling is first, and each further module appends its vector.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdistill.config import UserError
from jdistill.export.files import write_json, write_tensors
from jdistill.student import weights
from jdistill.student.encoders import EncoderConfig
from jdistill.student.head import Dense, Head, LayerNorm, Normalize
from jdistill.student.hf_modules import ACTIVATION_CLASSES, LAYER_NORM_ROWS, POOLING_KEYS, dense_rows
from jdistill.student.pooling import Mode, Pooling, PoolingModule, Splade, pooled_width
from jdistill.student.pooling.base import OWN_FILE

STOCK = "sentence_transformers.models"
"""Package of the modules in releases before 5.4; newer ones still support it."""

STOCK_SPARSE = "sentence_transformers.sparse_encoder.models"
"""The same for modules of sparse models."""


class Module(NamedTuple):
    """One entry of `modules.json`."""

    name: str
    """Name of the class."""
    write: Callable[[Path], None]
    """Writes the module's files into the given folder."""
    in_root: bool = False
    package: str = STOCK
    """Package of the class."""

    @property
    def type(self) -> str:
        """The class as named in `modules.json`."""
        return f"{self.package}.{self.name}"


def pooling_modules(
    poolings: Sequence[Pooling],
    encoder: EncoderConfig,
    params: Mapping[str, Mapping[str, Any]],
    *,
    include_prompt: bool,
) -> list[Module]:
    """The pooling modules: one Pooling for all modes, then one per pooling with parameters."""
    modes: list[Mode] = [pooling for pooling in poolings if not isinstance(pooling, PoolingModule)]
    modules = [_stock_pooling(encoder.width, modes, include_prompt)] if modes else []
    for i, pooling in enumerate(poolings):
        if isinstance(pooling, Splade):
            modules.append(Module(pooling.module, _config_writer(pooling.to_module(encoder)), package=STOCK_SPARSE))
        elif isinstance(pooling, PoolingModule):
            before = pooled_width(poolings[:i], encoder)
            modules.append(_own_pooling(pooling, {**pooling.to_module(encoder), "before": before}, params[str(i)]))
    return modules


def module_files(poolings: Sequence[Pooling]) -> list[Path]:
    """The files that travel with an export of these poolings, each once."""
    files = [each.module_file for each in poolings if isinstance(each, PoolingModule)]
    return list(dict.fromkeys(file for file in files if file is not None))


def check_modules(poolings: Sequence[Pooling]) -> None:
    """Check that sentence-transformers can have every pooling.

    Raises:
      UserError: naming the one that has no class there, or whose file cannot travel.
    """
    for pooling in poolings:
        if not isinstance(pooling, PoolingModule) or isinstance(pooling, Splade):
            continue
        where, file = f"student.pooling: {pooling.kind}", pooling.module_file
        if file is None or not pooling.module:
            raise UserError(
                f"{where} cannot be exported: it names no class of torch that computes the same, for "
                "sentence-transformers to load. Set module and module_file in its class, see docs/extending.md, or "
                "set export: null for a run that is not to be exported."
            )
        if file.suffix != ".py" or not file.stem.isidentifier() or not file.is_file():
            raise UserError(f"{where} cannot be exported: module_file is {file}, expected a Python file. Name one.")
    taken: dict[str, Path] = {}
    for file in module_files(poolings):
        if taken.setdefault(file.name, file) != file or (file.name == OWN_FILE.name and file != OWN_FILE):
            raise UserError(
                f"student.pooling: {file} cannot travel with an export beside another file of that name. Rename it."
            )


def head_modules(head: Sequence[Head], params: Mapping[str, Mapping[str, Any]]) -> list[Module]:
    """The modules of the head."""
    modules = []
    for i, module in enumerate(head):
        if isinstance(module, Normalize):
            modules.append(NORMALIZE)
        elif isinstance(module, Dense):
            modules.append(dense_module(module, params[str(i)]))
        else:
            modules.append(_layer_norm(module, params[str(i)]))
    return modules


NORMALIZE = Module("Normalize", lambda path: path.rmdir())  # has no files, and git does not keep empty folders


def dense_module(module: Dense, params: Mapping[str, Any]) -> Module:
    """A Dense module; keys that only newer releases know are written only if needed."""

    def write(path: Path) -> None:
        inputs, outputs = np.shape(params["kernel"])
        config = {
            "in_features": inputs,
            "out_features": outputs,
            "bias": module.bias,
            "activation_function": ACTIVATION_CLASSES[module.activation],
        }
        write_json(path / "config.json", {**config, **({"use_residual": True} if module.residual else {})})
        rows = dense_rows(bias=module.bias, residual="residual" in params)
        write_tensors(path / "model.safetensors", weights.to_hf(rows, params))

    return Module("Dense", write)


def _layer_norm(module: LayerNorm, params: Mapping[str, Any]) -> Module:
    def write(path: Path) -> None:
        write_json(path / "config.json", {"dimension": int(np.shape(params["scale"])[0])})
        write_tensors(path / "model.safetensors", weights.to_hf(LAYER_NORM_ROWS, params))

    return Module("LayerNorm", write)


def _own_pooling(pooling: PoolingModule, config: Mapping[str, Any], params: Mapping[str, Any]) -> Module:
    def write(path: Path) -> None:
        write_json(path / "config.json", config)
        write_tensors(path / "model.safetensors", weights.to_hf(pooling.weights(), params))

    return Module(pooling.module, write, package=pooling.module_type().rpartition(".")[0])


def _stock_pooling(width: int, modes: Sequence[Mode], include_prompt: bool) -> Module:
    """The Pooling module; uses the format of 5.4 only if the old keys cannot express the order of the modes."""
    if list(modes) == [mode for mode in POOLING_KEYS.values() if mode in modes]:
        chosen: dict[str, Any] = {key: mode in modes for key, mode in POOLING_KEYS.items()}
    else:
        chosen = {"pooling_mode": [{"mean_sqrt_len": "mean_sqrt_len_tokens"}.get(mode, mode) for mode in modes]}
    config = {"word_embedding_dimension": width, **chosen, "include_prompt": include_prompt}
    return Module("Pooling", _config_writer(config))


def _config_writer(config: Mapping[str, Any]) -> Callable[[Path], None]:
    return lambda path: write_json(path / "config.json", config)
