"""`jdistill show`: the resolved config, or the JSON Schema of configs."""

import json
from collections.abc import Sequence
from pathlib import Path

from jdistill import checkpoint
from jdistill.config import UserError, dump_yaml, load_config, parse
from jdistill.recipe import Recipe


def load_recipe(config: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key=value` overrides applied."""
    return load_config(Recipe, config, overrides)


def run_recipe(run: str | Path) -> Recipe:
    """The resolved recipe that a run folder was trained with."""
    return parse(Recipe, checkpoint.resolved_recipe(run), where=str(Path(run) / "config.yaml"))


def show(config: str | None, overrides: Sequence[str] = (), *, schema: bool = False) -> str:
    """The resolved recipe as YAML, or the JSON Schema of recipes."""
    if schema:
        return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"
    if config is None:
        raise UserError("show: no config given. Pass a YAML file, or --schema for the JSON Schema.")
    return dump_yaml(load_recipe(config, overrides))
