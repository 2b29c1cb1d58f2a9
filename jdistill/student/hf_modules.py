"""Reads the pooling and head modules of a sentence-transformers folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from pydantic import ValidationError

from jdistill.config import UserError, parse
from jdistill.folders import read_json, read_tensors
from jdistill.student import weights
from jdistill.student.encoders import EncoderConfig
from jdistill.student.head import Dense, Head, LayerNorm, Normalize
from jdistill.student.modules import linear_rows, norm_rows
from jdistill.student.pooling import MODES, Activation, LatentAttention, Mode, Pooling, SparseVocabulary, Splade
from jdistill.student.pooling.base import PoolingModule
from jdistill.student.weights import Weight

Known = PoolingModule | type[PoolingModule]
"""A pooling that a folder may hold; as an instance, what it is called in a recipe is known as well."""

OWN_MODULES: Sequence[Known] = (Activation, LatentAttention, SparseVocabulary)
"""Our poolings that sentence-transformers does not have; their classes there travel in `module_file`."""

STOCK_POOLINGS = ("Pooling", Splade.module)
"""Pooling classes of sentence-transformers."""

POOLING_KEYS: dict[str, Mode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of releases before 5.4, in the order of concatenation."""


_POOLING_OPTIONS = ("pooling_mode", "embedding_dimension", "word_embedding_dimension", "include_prompt", "__version__")
"""Other keys in the config of sentence-transformers' Pooling."""


def read_pooling(
    name: str, folder: Path, encoder: EncoderConfig, known: Mapping[str, Known], *, before: int
) -> tuple[list[Pooling], dict[str, Any] | None]:
    """The poolings that a module describes, and the parameters in its folder.

    Args:
      name: one of `STOCK_POOLINGS`, or a key of `known`.
      folder: the module's folder.
      encoder: the encoder whose tokens are pooled.
      known: poolings by type, as `by_type` returns them.
      before: total width of the poolings before it.
    Raises:
      UserError: if an option is not supported, or the weights do not fit.
    """
    if name == "Pooling":
        return list(_modes(folder)), None
    path = folder / "config.json"
    config = read_json(path)
    try:
        found = known.get(name, Splade)
        pooling = found.from_module(config)
    except (KeyError, ValidationError) as error:
        raise UserError(f"{path}: is not a valid config of {name}: {error}.") from error
    if config.get("before", 0) != before:
        raise UserError(f"{path}: before is {config['before']}, but the poolings before it have width {before}.")
    if isinstance(found, PoolingModule):
        pooling = pooling.model_copy(update={"kind": found.kind})
    return [cast(Pooling, pooling)], _tensors_of(pooling, folder, encoder)


def by_type(poolings: Sequence[Pooling | type[PoolingModule]]) -> dict[str, Known]:
    """What `modules.json` names -> the pooling, of our own ones and of those given that bring a module file.

    Nothing is imported for a name in a folder: whoever reads it says which poolings of other packages there may be.
    """
    given = [each for each in (*OWN_MODULES, *poolings) if not isinstance(each, str) and each.module_file is not None]
    return {each.module_type(): each for each in given}


def _tensors_of(pooling: PoolingModule, folder: Path, encoder: EncoderConfig) -> dict[str, Any] | None:
    if not pooling.weights():
        return None
    shapes = jax.eval_shape(lambda: pooling.init(encoder, jax.random.key(0)))
    return weights.from_hf(pooling.weights(), read_tensors(folder), shapes, where=str(folder))


def _modes(folder: Path) -> list[Mode]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{path}: is missing, but modules.json lists this Pooling, so the pooling is unknown. The copy or download "
            "may have been interrupted. Copy or download the model again."
        )
    config = read_json(path)
    unknown = [key for key, value in config.items() if value and key not in (*POOLING_KEYS, *_POOLING_OPTIONS)]
    if unknown:
        raise UserError(
            f"{path}: has {unknown[0]} = {config[unknown[0]]!r}, which is not supported. Supported are the modes "
            f"{', '.join(MODES)}, include_prompt and the width. Choose another model."
        )
    if "pooling_mode" not in config:
        return [mode for key, mode in POOLING_KEYS.items() if config.get(key)] or ["mean"]
    listed = config["pooling_mode"]
    names = [name.removesuffix("_tokens") for name in ([listed] if isinstance(listed, str) else listed)]
    modes: list[Mode] = [mode for name in names for mode in MODES if mode == name]
    if len(modes) != len(names) or not modes:
        raise UserError(f"{path}: pooling_mode is {listed!r}; supported: {', '.join(MODES)}.")
    return modes


def read_head(name: str, folder: Path) -> tuple[Head, dict[str, np.ndarray]]:
    """A head module, one of `HEAD_MODULES`, and its parameters.

    Raises:
      UserError: if an option is not supported, or the weights do not fit.
    """
    return HEAD_MODULES[name](folder)


ACTIVATION_CLASSES: dict[str, str] = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
"""Name -> torch class in the config of a Dense module; its default is Tanh."""

_ACTIVATIONS = {path: name for name, path in ACTIVATION_CLASSES.items()} | {
    f"torch.nn.{path.rpartition('.')[2]}": name for name, path in ACTIVATION_CLASSES.items()
}


def dense_rows(*, bias: bool, residual: bool) -> list[Weight]:
    """The weight table of a Dense module; `residual` if it has a residual matrix."""
    rows = [Weight(row.key, row.path.removeprefix("."), row.transpose) for row in linear_rows("linear", "", bias=bias)]
    return [*rows, Weight("residual.weight", "residual", transpose=True)] if residual else rows


def _dense(folder: Path) -> tuple[Dense, dict[str, np.ndarray]]:
    path = folder / "config.json"
    config = read_json(path)
    activation = config.get("activation_function", ACTIVATION_CLASSES["tanh"])
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise UserError(
            f"{path}: activation_function is {activation!r}, which is not supported. "
            f"Supported are torch's {', '.join(path.rpartition('.')[2] for path in ACTIVATION_CLASSES.values())}."
        )
    names = {str(config.get(key) or "sentence_embedding") for key in ("module_input_name", "module_output_name")}
    names -= {"sentence_embedding"}
    if names:
        raise UserError(f"{path}: uses {' and '.join(sorted(names))}; only sentence_embedding is supported.")
    options = {
        "in_features": config.get("in_features"),
        "out_features": config.get("out_features"),
        "bias": config.get("bias", True),
        "activation": _ACTIVATIONS[activation],
        "residual": config.get("use_residual", False),
    }
    module = parse(Dense, options, where=str(path))
    shapes = jax.eval_shape(lambda: module.init(module.in_features or 0, jax.random.key(0)))
    rows = dense_rows(bias=module.bias, residual="residual" in shapes)
    return module, weights.from_hf(rows, read_tensors(folder), shapes, where=str(folder))


def _layer_norm(folder: Path) -> tuple[LayerNorm, dict[str, np.ndarray]]:
    width = read_json(folder / "config.json").get("dimension")
    if not isinstance(width, int) or width < 1:
        raise UserError(f"{folder / 'config.json'}: dimension is {width!r}; expected the width of the vectors.")
    shapes = jax.eval_shape(lambda: LayerNorm().init(width, jax.random.key(0)))
    return LayerNorm(), weights.from_hf(LAYER_NORM_ROWS, read_tensors(folder), shapes, where=str(folder))


def _normalize(folder: Path) -> tuple[Normalize, dict[str, np.ndarray]]:
    return Normalize(), {}


LAYER_NORM_ROWS = [Weight(row.key, row.path.removeprefix(".")) for row in norm_rows("norm", "")]
"""The weight table of a LayerNorm module."""

HEAD_MODULES = {"Normalize": _normalize, "Dense": _dense, "LayerNorm": _layer_norm}
"""Class of sentence-transformers -> reader of its folder."""
