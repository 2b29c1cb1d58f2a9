"""Dense: a linear layer with an activation, in `config.json` and `model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill.config import UserError, parse
from jdistill.folders import read_json, read_tensors, write_json, write_tensors
from jdistill.student import weights
from jdistill.student.head import Dense
from jdistill.student.weights import Weight

CLASS = "sentence_transformers.models.Dense"

ACTIVATION_CLASSES: dict[str, str] = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
"""Name -> torch class in `config.json`; its default is Tanh."""

# Files name a class by either of its two paths in torch.
_ACTIVATIONS = {path: name for name, path in ACTIVATION_CLASSES.items()} | {
    f"torch.nn.{path.rpartition('.')[2]}": name for name, path in ACTIVATION_CLASSES.items()
}


def rows(*, bias: bool, residual: bool) -> list[Weight]:
    """The weight table; `residual` if there is a residual matrix."""
    return [
        Weight("linear.weight", "kernel", transpose=True),
        *([Weight("linear.bias", "bias")] if bias else []),
        *([Weight("residual.weight", "residual", transpose=True)] if residual else []),
    ]


def read(folder: Path) -> tuple[Dense, dict[str, np.ndarray]]:
    """The layer and its parameters.

    Raises:
      UserError: if an option is not supported, or the weights do not fit.
    """
    path = folder / "config.json"
    config = read_json(path)
    # A missing key means Tanh, the default of sentence-transformers' class, not ours.
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
    # Without `in_features` the width is 0, which no tensor fits.
    shapes = jax.eval_shape(lambda: module.init(module.in_features or 0, jax.random.key(0)))
    table = rows(bias=module.bias, residual="residual" in shapes)
    return module, weights.from_hf(table, read_tensors(folder), shapes, where=str(folder))


def write(module: Dense, params: Mapping[str, Any], folder: Path) -> None:
    """Write the module; keys that only newer releases know are written only if needed."""
    inputs, outputs = np.shape(params["kernel"])
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": module.bias,
        "activation_function": ACTIVATION_CLASSES[module.activation],
    }
    write_json(folder / "config.json", {**config, **({"use_residual": True} if module.residual else {})})
    table = rows(bias=module.bias, residual="residual" in params)
    write_tensors(folder / "model.safetensors", weights.to_hf(table, params))
