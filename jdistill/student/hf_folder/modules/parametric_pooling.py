"""Poolings with parameters, in `config.json` and `model.safetensors`.

Each pooling in `student/pooling/` defines their content itself: `to_module`, `from_module` and `weights`. SpladePooling
is a class of sentence-transformers. The others name a class in a file of plain torch (`module_file`; ours is
`export/modules/jdistill_pooling.py`) that travels in the folder's root and does not depend on jdistill. With several
poolings, sentence-transformers' Pooling is first, and each further module appends its vector.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.folders import read_json, read_tensors, write_json, write_tensors
from jdistill.student import weights
from jdistill.student.encoders import EncoderConfig
from jdistill.student.pooling import OwnPooling, Pooling, PoolingModule, Splade
from jdistill.student.pooling.base import OWN_FILE

Known = PoolingModule | type[PoolingModule]
"""A pooling that a folder may hold; as an instance, what it is called in a recipe is known as well."""


def known_poolings(others: Sequence[Pooling | type[PoolingModule]] = ()) -> dict[str, Known]:
    """Class in `modules.json` -> pooling, of our own ones and of those of other packages that bring a module file.

    Nothing is imported for a name in a folder: whoever reads it says which poolings of other packages there may be.
    """
    given = (each for each in (*get_args(OwnPooling), *others) if not isinstance(each, str))
    return {each.module_type(): each for each in given if each.module_file is not None}


def read(
    found: Known, folder: Path, encoder: EncoderConfig, *, before: int
) -> tuple[PoolingModule, dict[str, Any] | None]:
    """The pooling in a module's folder, and its parameters, if they are there and not in the encoder's file.

    Args:
      found: what `modules.json` names, one of `known_poolings` or `Splade`.
      folder: the module's folder.
      encoder: the encoder whose tokens are pooled.
      before: total width of the poolings before it.

    Raises:
      UserError: if an option is not supported, or the weights do not fit.
    """
    path = folder / "config.json"
    config = read_json(path)
    try:
        pooling = found.from_module(config)
    except (KeyError, ValidationError) as error:
        raise UserError(f"{path}: is not a valid config of {found.module_type()}: {error}.") from error
    if (given := config.get("before", 0)) != before:
        raise UserError(f"{path}: before is {given}, but the poolings before it have width {before}.")
    if isinstance(found, PoolingModule):
        # As the recipe calls it: whether parameters are kept depends on equality with the recipe's pooling, `kind`
        # included.
        pooling = pooling.model_copy(update={"kind": found.kind})
    if not pooling.weights():
        return pooling, None
    shapes = jax.eval_shape(lambda: pooling.init(encoder, jax.random.key(0)))
    return pooling, weights.from_hf(pooling.weights(), read_tensors(folder), shapes, where=str(folder))


def write(
    pooling: PoolingModule, encoder: EncoderConfig, params: Mapping[str, Any], folder: Path, *, before: int
) -> None:
    """Write the module; `before` is the total width of the poolings before it."""
    config = pooling.to_module(encoder)
    if pooling.module_file is None:  # SPLADE's weights are in the encoder's file
        write_json(folder / "config.json", config)
        return
    write_json(folder / "config.json", {**config, "before": before})
    write_tensors(folder / "model.safetensors", weights.to_hf(pooling.weights(), params))


def module_files(poolings: Sequence[Pooling]) -> list[Path]:
    """The files that travel with a folder of these poolings, each once."""
    files = [each.module_file for each in poolings if isinstance(each, PoolingModule)]
    return list(dict.fromkeys(file for file in files if file is not None))


def check_exportable(poolings: Sequence[Pooling]) -> None:
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
    # The files lie side by side in the folder's root.
    taken: dict[str, Path] = {}
    for file in module_files(poolings):
        if taken.setdefault(file.name, file) != file or (file.name == OWN_FILE.name and file != OWN_FILE):
            raise UserError(
                f"student.pooling: {file} cannot travel with an export beside another file of that name. Rename it."
            )
